"""Re-ttention: exact at whole steps and while nothing moves, clamped, refreshed on time, branches apart."""

import pytest
import torch
from snapshot import assert_same, snapshot
from sparse_wan import BLOCK, STEPS, draw, sparse_wan
from tiny import tiny_pipeline

from dit_accel import (
    CompileConfig,
    GeneratorSpec,
    RettentionConfig,
    StaticCacheConfig,
    TrajectoryConfig,
    accelerate_pipeline,
    remove_acceleration,
    summary,
)
from dit_accel.errors import AccelerationWarning, ConfigError, UnsupportedModelError
from dit_accel.kernels.attention import dense
from dit_accel.passes.attention.choosing import AttendedSequence
from dit_accel.passes.attention.layout import TokenLayout
from dit_accel.passes.attention.rettention_layer import STORAGES, ReshapedAttention
from dit_accel.session.session import session_of

LAYOUT = TokenLayout((3, 5, 5), (0, 9))


def layer(**changes) -> ReshapedAttention:
    each = ReshapedAttention(
        **{"pattern": "window", "density": 0.3, "block": BLOCK, "rise": 0.0, "storage": "as computed"} | changes
    )
    each.begin(AttendedSequence(length=LAYOUT.length, text=LAYOUT.text, layout=LAYOUT))
    return each


def drawn(seed: int = 0) -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, LAYOUT.length, 2, 16, generator=draw, dtype=torch.float64) for _ in range(3))


def effect(pipe):
    return summary(pipe).denoisers[0].effects["rettention"]


@pytest.mark.parametrize("pattern", ["window", "tiles", "radial"])
def test_a_whole_step_is_dense_and_so_is_the_next_while_nothing_moves(pattern) -> None:
    each, parts = layer(pattern=pattern), drawn()
    want = dense(*parts)
    assert torch.allclose(each(*parts, None), want, atol=1e-6) and not each.skipped
    each.looks, each.step = False, 1
    assert torch.allclose(each(*parts, None), want, atol=1e-6) and each.skipped
    moved = drawn(1)
    assert (each(*moved, None) - dense(*moved)).abs().max() > 1e-2, "only what is near is computed"
    assert torch.allclose(each(*moved, None)[:, :9], dense(*moved)[:, :9], atol=1e-6), "text is computed whole"


def test_its_share_is_that_of_the_weights_and_rises_to_one() -> None:
    each, (q, k, v) = layer(rise=0.3), drawn()
    each(q, k, v, None)
    kept = each.kept[None]
    weights = (torch.einsum("bqhd,bkhd->bhqk", q, k) / 4).softmax(-1)
    mask = each.static.table.mask.repeat_interleave(BLOCK, -1).repeat_interleave(BLOCK, -2)[..., :84, :84]
    share = (weights * mask).sum(-1).transpose(1, 2)[..., None]
    assert torch.allclose(kept.share.double(), share, atol=1e-6) and share.min() < 0.7
    each.looks, each.step = False, 2
    sparse = torch.einsum("bhqk,bkhd->bqhd", weights * mask / (weights * mask).sum(-1, keepdim=True), v)
    want = sparse * (share + 0.6).clamp(max=1.0) + kept.rest
    assert torch.allclose(each(q, k, v, None), want, atol=1e-6)


@pytest.mark.parametrize("storage", STORAGES)
def test_what_is_kept_may_be_small(storage) -> None:
    each = layer(storage=storage)
    parts = tuple(part.float() for part in drawn())
    whole = each(*parts, None)
    each.looks, each.step = False, 1
    error = float((each(*parts, None) - whole).norm() / whole.norm())
    sizes = {"as computed": (4, 0), "bfloat16": (2, 4e-3), "float16": (2, 5e-4), "float8": (1, 4e-2)}
    assert error <= sizes[storage][1] + 1e-6
    share = LAYOUT.length * 2 * 2 * 4
    unit = share if storage == "float8" else 0
    assert each.num_bytes == 2 * LAYOUT.length * 2 * 16 * sizes[storage][0] + share + unit


@pytest.mark.parametrize("storage", STORAGES)
def test_nan_of_a_whole_step_stays_in_its_row(storage) -> None:
    each = layer(storage=storage)
    q, k, v = (part.float() for part in drawn())
    bad = q.clone()
    bad[0, 40, 1, 3] = torch.nan
    each(bad, k, v, None)
    each.looks, each.step = False, 1
    rows = each(q, k, v, None).isnan().any(-1)
    assert rows[0, 40, 1] and int(rows.sum()) == 1


def test_branches_are_kept_apart_and_runs_forget() -> None:
    each = layer()
    for branch in ("cond", "uncond"):
        each.branch = branch
        each(*drawn(len(branch)), None)
    first, second = each.kept.values()
    assert not torch.equal(first.rest, second.rest)
    each.begin(AttendedSequence(length=LAYOUT.length, text=LAYOUT.text, layout=LAYOUT))
    assert each.kept == {} and each.num_bytes == 0


def test_steps_are_dense_then_whole_then_sparse_and_it_is_undone() -> None:
    pipe = sparse_wan()
    plain, before = draw(pipe, num_inference_steps=6), snapshot(pipe)
    config = RettentionConfig(density=0.25, block=BLOCK, refresh=3, dense_steps_frac=1 / 6)
    accelerate_pipeline(pipe, config, strict=True)
    passing, seen = session_of(pipe).runtimes[0].around_of("rettention"), []
    compute = passing.sparse.compute

    def see(call, *rest):
        result = compute(call, *rest)
        seen.append((call.step, passing.layers[0].skipped))
        return result

    passing.sparse.compute = see
    sparse = draw(pipe, num_inference_steps=6)
    whole = {0, 1, 4}
    assert seen == [(step, step not in whole) for step in range(6) for _ in range(2)]
    assert effect(pipe).planned_frac == effect(pipe).actual_frac == pytest.approx(0.75 / 2)
    assert (sparse - plain).abs().max() > 1e-4
    # Two layers, two branches: 192 tokens in 2 heads of 16, and a share for each token and head.
    assert effect(pipe).kept_bytes == 4 * (192 * 32 * 4 + 192 * 2 * 4) and "MiB kept" in str(summary(pipe))
    assert torch.equal(draw(pipe, num_inference_steps=6), sparse)
    accelerate_pipeline(pipe, RettentionConfig(refresh=1, block=BLOCK, dense_steps_frac=0), strict=True)
    assert torch.allclose(draw(pipe, num_inference_steps=6), plain, atol=1e-4)
    remove_acceleration(pipe)
    assert_same(snapshot(pipe), before)
    assert torch.equal(draw(pipe, num_inference_steps=6), plain)


def test_it_repairs_a_sparse_mask() -> None:
    """Nearer to dense than the same mask without what is kept, at the step after the whole one."""
    each = layer()
    q, k, v = drawn()
    each(q, k, v, None)
    each.looks, each.step = False, 1
    moved = [part + 0.1 * other for part, other in zip((q, k, v), drawn(1), strict=True)]
    alone = ReshapedAttention(pattern="window", density=0.3, block=BLOCK, rise=0.0, storage="as computed")
    alone.begin(AttendedSequence(length=LAYOUT.length, text=LAYOUT.text, layout=LAYOUT))
    alone(q * 0, k * 0, v * 0, None)
    alone.kept[None].share.fill_(1.0)
    alone.looks, alone.step = False, 1
    want = dense(*moved)
    assert (each(*moved, None) - want).norm() < 0.3 * (alone(*moved, None) - want).norm()


def test_some_layers_only() -> None:
    pipe = sparse_wan()
    config = RettentionConfig(density=0.25, block=BLOCK, dense_steps_frac=0, refresh=2, layers=("blocks.1.*",))
    accelerate_pipeline(pipe, config, strict=True)
    draw(pipe)
    assert effect(pipe).planned_frac == effect(pipe).actual_frac == pytest.approx(0.75 / 4)
    with pytest.raises(UnsupportedModelError, match=r"none of its attention sites is one of blocks\.9"):
        accelerate_pipeline(pipe, RettentionConfig(layers="blocks.9*"))


@pytest.mark.parametrize(
    "other",
    [
        StaticCacheConfig(schedule=GeneratorSpec("every_n", n=2)),
        TrajectoryConfig(computed=(True, False) * (STEPS // 2)),
        CompileConfig(backend="eager"),
    ],
    ids=["static_cache", "trajectory", "compile"],
)
def test_with_other_passes(other) -> None:
    """At full density the other pass alone; where steps are left out, the next one that is computed may be whole."""
    pipe = sparse_wan()
    accelerate_pipeline(pipe, [other, RettentionConfig(density=1.0, block=BLOCK, dense_steps_frac=0)])
    both = draw(pipe)
    accelerate_pipeline(pipe, other)
    assert torch.allclose(both, draw(pipe), atol=1e-4)
    accelerate_pipeline(pipe, [other, RettentionConfig(density=0.25, block=BLOCK, dense_steps_frac=0, refresh=4)])
    draw(pipe)
    assert effect(pipe).actual_frac > 0.2


def test_what_is_not_sparse_is_said() -> None:
    pipe = tiny_pipeline("wan")
    accelerate_pipeline(pipe, RettentionConfig(block=BLOCK))
    with pytest.warns(AccelerationWarning, match="no sparse kernel for heads of size 12"):
        draw(pipe)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"density": 2}, r"density must be a number in \(0, 1\]"),
        ({"refresh": 0}, "refresh must be a whole number of at least 1"),
        ({"rise": -0.1}, r"rise must be a number in \[0, 1\]"),
        ({"storage": "int4"}, "storage must be one of as computed"),
    ],
)
def test_bad_settings_are_named(setting: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RettentionConfig(**setting)
