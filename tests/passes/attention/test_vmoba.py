"""VMoBA on live pipelines: boxes in turn, own boxes always, text always, thresholds counted, undone, combined."""

import pytest
import torch
from snapshot import assert_same, snapshot
from sparse_wan import SIZE, STEPS, draw, sparse_wan
from tiny import tiny_pipeline

from dit_accel import (
    CompileConfig,
    GeneratorSpec,
    StaticCacheConfig,
    TrajectoryConfig,
    VMoBAConfig,
    accelerate_pipeline,
    remove_acceleration,
    summary,
)
from dit_accel.errors import AccelerationWarning, ConfigError
from dit_accel.passes.attention.choosing import AttendedSequence
from dit_accel.passes.attention.layout import TokenLayout
from dit_accel.passes.attention.partitions import Box, boxes_of
from dit_accel.passes.attention.vmoba import BoxedAttention
from dit_accel.session.session import session_of

CONFIG = VMoBAConfig(density=0.25, temporal=1, spatial=(4, 2), dense_steps_frac=0.5)


def effect(pipe):
    return summary(pipe).denoisers[0].effects["vmoba"]


def test_published_boxes() -> None:
    sizes = [
        len(box.blocks_of(TokenLayout((21, 30, 52))).unique()) for box in boxes_of((21, 30, 52), None, None, None)
    ]
    assert sizes == [7, 24, 72]
    assert boxes_of((21, 30, 52), None, None, None)[2] == Box(frames=7, rows=5, columns=13)


def test_boxes_of_a_grid_that_they_do_not_divide() -> None:
    blocks = Box(frames=2, rows=2, columns=3).blocks_of(TokenLayout((3, 3, 4), (0, 2)))
    assert blocks[:2].tolist() == [8, 8], "text is the last one"
    video = blocks[2:].view(3, 3, 4)
    assert video[0].tolist() == [[0, 0, 0, 1], [0, 0, 0, 1], [2, 2, 2, 3]]
    assert torch.equal(video[1], video[0]) and torch.equal(video[2], video[0] + 4)
    assert Box(frames=2, rows=2, columns=3).blocks_of(TokenLayout((3, 3, 4), (36, 38)))[-2:].tolist() == [8, 8]


def test_layers_take_their_boxes_in_turn_and_it_is_undone() -> None:
    pipe = sparse_wan()
    plain, before = draw(pipe), snapshot(pipe)
    accelerate_pipeline(pipe, CONFIG, strict=True)
    sparse = draw(pipe)
    attends = session_of(pipe).runtimes[0].around_of("vmoba").attends
    assert [len(attend.blocks.sizes) for attend in attends] == [3, 8]
    assert (sparse - plain).abs().max() > 1e-3
    left_out = (1 - 1 / 3 + 1 - 2 / 8) / 2 / 2
    assert effect(pipe).planned_frac == pytest.approx(effect(pipe).actual_frac) == pytest.approx(left_out)
    assert torch.equal(draw(pipe), sparse)
    accelerate_pipeline(pipe, VMoBAConfig(density=0.25, temporal=1, dense_layers=1), strict=True)
    draw(pipe)
    attends = session_of(pipe).runtimes[0].around_of("vmoba").attends
    assert attends[0] is None and len(attends[1].blocks.sizes) == 3, "the turns begin behind the dense layers"
    accelerate_pipeline(pipe, VMoBAConfig(density=1.0), strict=True)
    assert torch.allclose(draw(pipe), plain, atol=1e-4)
    remove_acceleration(pipe)
    assert_same(snapshot(pipe), before)
    assert torch.equal(draw(pipe), plain)


@pytest.mark.parametrize("pool", ["query", "head"])
def test_a_threshold_is_counted(pool) -> None:
    pipe = sparse_wan()
    accelerate_pipeline(pipe, VMoBAConfig(threshold=0.3, pool=pool, dense_steps_frac=0))
    draw(pipe)
    assert 0.3 < effect(pipe).actual_frac < 0.9
    # Every layer's share of its last call is what the next run is said to leave out.
    assert abs(effect(pipe).actual_frac - effect(pipe).planned_frac) < 0.2


def test_text_is_read_by_all_and_reads_all() -> None:
    each = BoxedAttention(VMoBAConfig(density=0.25, temporal=1), 0)
    layout = TokenLayout((4, 3, 4), (0, 5))
    each.begin(AttendedSequence(length=53, text=(0, 5), layout=layout))
    q, k = (torch.randn(2, 53, 3, 16, generator=torch.Generator().manual_seed(0)) for _ in range(2))
    chosen = each.choose(q, k, each.blocks)
    assert chosen.shape == (2, 3, 5, 53) and chosen[:, :, 4].all() and chosen[..., :5].all()
    assert (chosen[:, :, :4, 5:].sum(2) == 1).all(), "a query's own frame alone"
    assert chosen.sum((2, 3)).max() <= each._capacity(53)
    pipe = tiny_pipeline("cogvideox")
    plain = draw(pipe, "cogvideox")
    accelerate_pipeline(pipe, VMoBAConfig(density=0.3, dense_steps_frac=0), strict=True)
    assert (draw(pipe, "cogvideox") - plain).abs().max() > 0
    assert effect(pipe).actual_frac == pytest.approx(effect(pipe).planned_frac) != 0
    accelerate_pipeline(pipe, VMoBAConfig(density=1.0), strict=True)
    assert torch.allclose(draw(pipe, "cogvideox"), plain, atol=1e-4)


@pytest.mark.parametrize(
    "other",
    [
        StaticCacheConfig(schedule=GeneratorSpec("every_n", n=2)),
        TrajectoryConfig(computed=(True, False) * (STEPS // 2)),
        pytest.param(CompileConfig(backend="aot_eager"), marks=pytest.mark.slow),
    ],
    ids=["static_cache", "trajectory", "compile"],
)
def test_with_other_passes(other) -> None:
    pipe = sparse_wan()
    accelerate_pipeline(pipe, [other, VMoBAConfig(density=1.0, dense_steps_frac=0)])
    both = draw(pipe)
    accelerate_pipeline(pipe, other)
    assert torch.allclose(both, draw(pipe), atol=1e-4)
    if isinstance(other, CompileConfig):
        accelerate_pipeline(pipe, CONFIG)
        alone = draw(pipe)
        accelerate_pipeline(pipe, [other, CONFIG], strict=True)
        assert torch.allclose(draw(pipe), alone, atol=1e-4)
        return
    accelerate_pipeline(pipe, [other, VMoBAConfig(density=0.25, dense_steps_frac=0)])
    draw(pipe)
    assert effect(pipe).actual_frac > 0.5


def test_what_is_not_sparse_is_said() -> None:
    pipe = tiny_pipeline("wan")
    accelerate_pipeline(pipe, CONFIG)
    with pytest.warns(AccelerationWarning, match="no sparse kernel for heads of size 12"):
        draw(pipe)
    pipe = sparse_wan()
    accelerate_pipeline(pipe, VMoBAConfig(min_tokens=1000))
    with pytest.warns(AccelerationWarning, match="192 tokens are fewer than min_tokens = 1000"):
        draw(pipe)
    assert effect(pipe).actual_frac == 0.0 and SIZE == (3, 8, 8)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"density": 0}, r"density must be a number in \(0, 1\]"),
        ({"threshold": 1.5}, r"threshold must be a number in \(0, 1\]"),
        ({"pool": "block"}, "pool must be query or head"),
        ({"spatial": (1, 2, 3)}, "spatial must be 2 numbers"),
        ({"cycle": ("temporal", "diagonal")}, "cycle must be some of temporal, spatial"),
        ({"temporal": 0}, "whole numbers of tokens of at least 1"),
    ],
)
def test_bad_settings_are_named(setting: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VMoBAConfig(**setting)
