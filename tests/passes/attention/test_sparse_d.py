"""SparseD: dense first, one look for each branch, the same tables from then on, text ranked apart."""

import pytest
import torch
from snapshot import assert_same, snapshot
from sparse_wan import BLOCK, STEPS, draw, sparse_wan
from tiny import tiny_pipeline

from dit_accel import (
    CompileConfig,
    GeneratorSpec,
    SparseDConfig,
    StaticCacheConfig,
    TrajectoryConfig,
    accelerate_pipeline,
    remove_acceleration,
    summary,
)
from dit_accel.errors import AccelerationWarning, ConfigError
from dit_accel.passes.attention.sparse_d import OneShot, SparseD, best_blocks
from dit_accel.session.session import session_of

CONFIG = SparseDConfig(density=0.25, block=BLOCK, dense_steps_frac=0.5)


def effect(pipe):
    return summary(pipe).denoisers[0].effects["sparse_d"]


def watched(pipe) -> list[tuple[int, list[int]]]:
    """Of every call, its step and how many tables each layer has when it is over."""
    seen = []
    passing = session_of(pipe).runtimes[0].around_of("sparse_d")
    assert isinstance(passing, SparseD)
    compute = passing.sparse.compute

    def see(call, *rest):
        result = compute(call, *rest)
        seen.append((call.step, [dict(attend.tables) for attend in passing._attends]))
        return result

    passing.sparse.compute = see
    return seen


def test_dense_then_one_look_then_the_same_tables() -> None:
    pipe = sparse_wan()
    plain = draw(pipe)
    before = snapshot(pipe)
    accelerate_pipeline(pipe, CONFIG, strict=True)
    seen = watched(pipe)
    sparse = draw(pipe)
    assert [step for step, _ in seen] == [0, 0, 1, 1, 2, 2, 3, 3]
    # Two branches of guidance look one after the other at step 1, the last dense one.
    assert [[len(tables) for tables in layers] for _, layers in seen] == [[0, 0]] * 2 + [[1, 1]] + [[2, 2]] * 5
    last = seen[-1][1]
    for _, layers in seen[3:]:
        assert all(layers[n][branch] is table for n in range(2) for branch, table in last[n].items())
    assert (sparse - plain).abs().max() > 1e-3
    assert effect(pipe).planned_frac == effect(pipe).actual_frac == pytest.approx(0.75 / 2)
    assert torch.equal(draw(pipe), sparse), "the next run looks for itself"
    remove_acceleration(pipe)
    assert_same(snapshot(pipe), before)
    assert torch.equal(draw(pipe), plain)


def test_all_blocks_are_dense_attention() -> None:
    pipe = sparse_wan()
    plain = draw(pipe)
    accelerate_pipeline(pipe, SparseDConfig(density=1.0, block=BLOCK), strict=True)
    assert torch.allclose(draw(pipe), plain, atol=1e-4)


def test_text_is_ranked_apart_and_sees_everything() -> None:
    sums = torch.rand(1, 2, 6, 6, generator=torch.Generator().manual_seed(0)) + torch.tensor([0, 0, 0, 9, 9, 9.0])
    mask = best_blocks(sums, SparseDConfig(density=0.34, block=BLOCK), (0, 40))
    assert mask[:, :, :3].all(), "text's own queries"
    one = torch.ones(1, 2, 3, dtype=torch.long)
    assert torch.equal(mask[:, :, 3:, :3].sum(-1), one), "a third of the three blocks of text"
    assert torch.equal(mask[:, :, 3:, 3:].sum(-1), one)
    whole = best_blocks(sums, SparseDConfig(density=0.34, block=BLOCK), None)
    assert not whole[..., :3].any(), "without isolation text would have been left out"


def test_joint_attention_with_text() -> None:
    pipe = tiny_pipeline("cogvideox")
    plain = draw(pipe, "cogvideox")
    accelerate_pipeline(pipe, SparseDConfig(density=0.4, block=BLOCK), strict=True)
    assert (draw(pipe, "cogvideox") - plain).abs().max() > 0
    assert effect(pipe).actual_frac == pytest.approx(effect(pipe).planned_frac)


def test_what_is_not_sparse_is_said() -> None:
    pipe = tiny_pipeline("wan")
    accelerate_pipeline(pipe, CONFIG)
    with pytest.warns(AccelerationWarning, match="no sparse kernel for heads of size 12"):
        draw(pipe)
    pipe = sparse_wan()
    accelerate_pipeline(pipe, SparseDConfig(min_tokens=1000))
    with pytest.warns(AccelerationWarning, match="192 tokens are fewer than min_tokens = 1000"):
        draw(pipe)
    assert effect(pipe).actual_frac == 0.0


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
    """At full density the other pass alone; where a step is not computed, the look is at the next one that is."""
    pipe = sparse_wan()
    accelerate_pipeline(pipe, [other, SparseDConfig(density=1.0, block=BLOCK)])
    both = draw(pipe)
    accelerate_pipeline(pipe, other)
    assert torch.allclose(both, draw(pipe), atol=1e-4)
    accelerate_pipeline(pipe, [other, SparseDConfig(density=0.25, block=BLOCK, dense_steps_frac=0.25)])
    draw(pipe)
    assert effect(pipe).actual_frac > 0.2


def test_an_empty_look_is_none() -> None:
    each = OneShot(CONFIG)
    q = torch.randn(1, 40, 2, 16, generator=torch.Generator().manual_seed(0))
    first, second = each(q, q, q, None), each(q, q, q, None)
    assert list(each.tables) == [None] and (first - second).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"density": 0}, r"density must be a number in \(0, 1\]"),
        ({"block": 20}, "block must be one of 16, 32, 64, 128"),
    ],
)
def test_bad_settings_are_named(setting: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SparseDConfig(**setting)
