"""Static masks: their geometry on odd grids, exact densities, and the pass that applies them."""

import pytest
import torch
from snapshot import assert_same, snapshot
from sparse_wan import BLOCK, SIZE, STEPS, draw, sparse_wan
from tiny import tiny_pipeline

from dit_accel import (
    CompileConfig,
    GeneratorSpec,
    StaticCacheConfig,
    StaticMaskConfig,
    TrajectoryConfig,
    accelerate_pipeline,
    remove_acceleration,
    summary,
)
from dit_accel.errors import AccelerationWarning, ConfigError
from dit_accel.passes.attention.layout import TokenLayout
from dit_accel.passes.attention.static_patterns import PATTERNS, order_of, static_mask, tile_sides


def effect(pipe):
    return summary(pipe).denoisers[0].effects["static_mask"]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("text", [None, (0, 20), (315, 340)])
def test_every_row_keeps_as_many_of_its_nearest(pattern, text) -> None:
    layout = TokenLayout((5, 7, 9), text)
    mask = static_mask(layout, pattern, block=16, density=0.25)
    blocks = layout.num_blocks(16)
    dense = [] if text is None else list(range(text[0] // 16, -(-text[1] // 16)))
    others = [block for block in range(blocks) if block not in dense]
    assert mask.shape == (blocks, blocks) and mask[dense].all() and mask[:, dense].all()
    kept = mask[others][:, others].sum(-1)
    assert (kept == round(0.25 * len(others))).all()
    assert mask.diagonal().all(), "a block is nearest to itself"
    assert static_mask(layout, pattern, block=16, density=1.0).all()


def test_a_window_is_the_same_place_in_every_frame() -> None:
    mask = static_mask(TokenLayout((4, 8, 8)), "window", block=16, density=0.25)  # four blocks in a frame
    rows, columns = torch.arange(16)[:, None] % 4, torch.arange(16) % 4
    assert torch.equal(mask, rows == columns)


def test_far_frames_see_less_of_each_other() -> None:
    mask = static_mask(TokenLayout((8, 16, 16)), "radial", block=16, density=0.3)
    frames = torch.arange(128) // 16
    apart = (frames[:, None] - frames).abs()
    apart[:, frames == 0] = -1  # the first frame is near to all
    first, *shares = [mask[(apart == gap) & (frames[:, None] > 0)].float().mean().item() for gap in (-1, 0, 1, 3, 6)]
    assert shares == sorted(shares, reverse=True) and shares[0] > 2 * shares[3]
    assert abs(first - shares[0]) < 0.15 and first > 2 * shares[3]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("density", [0.05, 0.1, 0.25])
def test_a_block_sees_itself_however_little_is_kept(pattern, density) -> None:
    mask = static_mask(TokenLayout((4, 16, 16)), pattern, block=32, density=density)
    assert mask.diagonal().all()


def test_tiles_are_boxes_where_they_fit_and_neighbours_everywhere() -> None:
    layout = TokenLayout((4, 8, 8))
    assert tile_sides(layout, 64) == (4, 4, 4) and tile_sides(TokenLayout((1, 16, 16)), 64) == (1, 8, 8)
    order = order_of(layout, "tiles", 64)
    for block in order.split(64):
        places = torch.stack([block // 64, block // 8 % 8, block % 8])
        assert (places.amax(1) - places.amin(1) == 3).all()
    odd = TokenLayout((5, 7, 9), (0, 6))
    order = order_of(odd, "tiles", 16)
    assert torch.equal(order.sort().values, torch.arange(odd.length)) and torch.equal(order[:6], torch.arange(6))
    numbers = order[6:] - 6
    steps = torch.stack([numbers // 63, numbers // 9 % 7, numbers % 9]).diff(dim=1).abs().amax(0)
    raster = torch.arange(315)
    jumps = torch.stack([raster // 63, raster // 9 % 7, raster % 9]).diff(dim=1).abs().amax(0)
    assert steps.float().mean() < jumps.float().mean() and steps.max() <= 4


@pytest.mark.parametrize("pattern", PATTERNS)
def test_on_a_live_pipeline(pattern) -> None:
    pipe = sparse_wan()
    plain, before = draw(pipe), snapshot(pipe)
    accelerate_pipeline(pipe, StaticMaskConfig(pattern=pattern, density=1.0, block=BLOCK), strict=True)
    assert torch.allclose(draw(pipe), plain, atol=1e-4)
    config = StaticMaskConfig(pattern=pattern, density=0.25, block=BLOCK, dense_steps_frac=0.5, dense_layers=1)
    accelerate_pipeline(pipe, config, strict=True)
    sparse = draw(pipe)
    assert (sparse - plain).abs().max() > 1e-3
    assert effect(pipe).planned_frac == effect(pipe).actual_frac == pytest.approx(0.75 / 4)
    assert torch.equal(draw(pipe), sparse)
    draw(pipe, height=64, num_frames=5)
    assert effect(pipe).actual_frac > 0 and effect(pipe).shortfall is None, "any size"
    remove_acceleration(pipe)
    assert_same(snapshot(pipe), before)
    assert torch.equal(draw(pipe), plain)


def test_text_in_front_is_always_computed() -> None:
    pipe = tiny_pipeline("cogvideox")
    plain = draw(pipe, "cogvideox")
    accelerate_pipeline(pipe, StaticMaskConfig(density=1.0, block=BLOCK), strict=True)
    assert torch.allclose(draw(pipe, "cogvideox"), plain, atol=1e-4)
    accelerate_pipeline(pipe, StaticMaskConfig(density=0.3, block=BLOCK), strict=True)
    assert (draw(pipe, "cogvideox") - plain).abs().max() > 0
    assert effect(pipe).actual_frac == pytest.approx(effect(pipe).planned_frac) != 0


@pytest.mark.parametrize(
    "other",
    [
        StaticCacheConfig(schedule=GeneratorSpec("every_n", n=2)),
        TrajectoryConfig(computed=(True, False) * (STEPS // 2)),
        CompileConfig(backend="aot_eager"),
    ],
    ids=["static_cache", "trajectory", "compile"],
)
def test_with_other_passes(other) -> None:
    pipe = sparse_wan()
    config = StaticMaskConfig(density=0.25, block=BLOCK)
    if isinstance(other, CompileConfig):
        accelerate_pipeline(pipe, config)
        alone = draw(pipe)
        accelerate_pipeline(pipe, [other, config], strict=True)
        assert torch.allclose(draw(pipe), alone, atol=1e-4)
        assert effect(pipe).actual_frac == pytest.approx(0.75)
        return
    accelerate_pipeline(pipe, [other, config])
    draw(pipe)
    assert effect(pipe).actual_frac == pytest.approx(0.75)


@pytest.mark.parametrize("others", [[], [CompileConfig(backend="eager")]], ids=["eager", "compiled"])
def test_heads_without_a_kernel_are_said_in_every_run(others) -> None:
    """Compiled rows too do not say that they have done what they have not."""
    pipe = tiny_pipeline("wan")
    accelerate_pipeline(pipe, [StaticMaskConfig(block=BLOCK), *others])
    with pytest.warns(AccelerationWarning, match="no sparse kernel for heads of size 12"):
        draw(pipe)
    draw(pipe)
    assert effect(pipe).actual_frac == 0.0 and "heads of size 12" in effect(pipe).shortfall


def test_what_is_not_sparse_is_said() -> None:
    pipe = sparse_wan()
    accelerate_pipeline(pipe, StaticMaskConfig(min_tokens=1000))
    with pytest.warns(AccelerationWarning, match="192 tokens are fewer than min_tokens = 1000"):
        draw(pipe)
    assert SIZE == (3, 8, 8)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"density": 0}, r"density must be a number in \(0, 1\]"),
        ({"pattern": "spiral"}, "pattern must be one of window, tiles, radial"),
        ({"block": 20}, "block must be one of 16, 32, 64, 128"),
    ],
)
def test_bad_settings_are_named(setting: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        StaticMaskConfig(**setting)
