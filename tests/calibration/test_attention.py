"""Masks and orders from recorded attention: on synthetic heads whose order is known, and on a live pipeline."""

import sys
from pathlib import Path

import pytest
import torch

from dit_accel import accelerate_pipeline, summary
from dit_accel.calibration.attention import choose_paro
from dit_accel.calibration.attention_published import published_orders
from dit_accel.calibration.attention_record import AttentionRecord, record_attention
from dit_accel.errors import ConfigError, UnsupportedModelError
from dit_accel.kernels.pooled_scores import pooled_sums
from dit_accel.passes.attention.layout import ORDER_NAMES, TokenLayout

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "passes" / "attention"))
from sparse_wan import BLOCK, draw, sparse_wan
from tiny import tiny_pipeline

LAYOUT = TokenLayout((4, 8, 8))


def local_head(axis: int, layout: TokenLayout = LAYOUT) -> tuple[torch.Tensor, torch.Tensor]:
    """q and k [1, N, 1, 16] of a head that attends to all tokens that have its own place on one axis."""
    places = torch.cartesian_prod(*(torch.arange(size) for size in layout.size))[:, axis]
    codes = torch.nn.functional.one_hot(places, 16).float() * 6
    return codes[None, :, None], codes[None, :, None]


def record_of(axes: list[int]) -> AttentionRecord:
    """One layer, one part, one head for each axis."""
    heads = [local_head(axis) for axis in axes]
    sums = [pooled_sums(q, k, LAYOUT.permutations, block=BLOCK)[:, 0] / LAYOUT.length for q, k in heads]
    return AttentionRecord(layout=LAYOUT, layers=("a",), block=BLOCK, sums=torch.cat(sums, 1)[None, None])


def held(record: AttentionRecord, config) -> list[float]:
    """Mass of each head that is kept."""
    places = config.orders[0].long()
    sums = torch.stack([record.sums[0, 0, order, head] for head, order in enumerate(places)])
    return (sums * config.mask(0, 0)[0]).sum((-1, -2)).tolist()


def test_a_head_gets_the_order_in_which_it_is_local() -> None:
    record = record_of([0, 1, 2])
    config = choose_paro(record, density=1 / 8, share="head")
    names = [ORDER_NAMES[order] for order in config.orders[0]]
    assert [name[0] for name in names] == ["F", "H", "W"]
    # There are four frames, so that a head of frames fills a quarter; rows and columns are eight.
    assert held(record, config) == pytest.approx([0.5, 1.0, 1.0], abs=0.01)
    raster = choose_paro(record, density=1 / 8, share="head", orders=(0,))
    assert held(record, raster) == pytest.approx([0.5, 0.5, 1 / 8], abs=0.01)


@pytest.mark.parametrize("share", ["head", "model"])
@pytest.mark.parametrize("density", [0.1, 0.3, 1.0])
def test_the_density_is_what_was_asked_for(density: float, share) -> None:
    config = choose_paro(record_of([0, 1, 2]), density=density, share=share)
    assert float(config.densities()) == pytest.approx(density, abs=0.01)
    assert config.mask(0, 0).any(-1).all(), "no query is left without a key"


def test_a_mass_takes_as_few_blocks_as_hold_it() -> None:
    record = record_of([0, 1])
    config = choose_paro(record, mass=0.9)
    assert all(mass >= 0.9 for mass in held(record, config))
    fewer = choose_paro(record, mass=0.5)
    assert float(fewer.densities()) < float(config.densities()) < 0.3


def test_heads_that_need_more_get_more_of_a_common_budget() -> None:
    diffuse = torch.full((1, 1, 6, 1, 16, 16), 1 / 256)
    sharp = torch.eye(16).expand(1, 1, 6, 1, 16, 16) / 16
    record = AttentionRecord(layout=LAYOUT, layers=("a",), block=BLOCK, sums=torch.cat([diffuse, sharp], 3))
    config = choose_paro(record, density=0.3)
    kept = config.mask(0, 0)[0].float().mean((-1, -2))
    assert kept[1] == pytest.approx(1 / 16) and kept[0] > 0.5


def test_text_is_kept_whole() -> None:
    layout = TokenLayout((4, 8, 8), (0, 20))
    sums = torch.rand(1, 1, 6, 2, 18, 18, generator=torch.Generator().manual_seed(0))
    record = AttentionRecord(layout=layout, layers=("a",), block=BLOCK, sums=sums / sums.sum((-1, -2), keepdim=True))
    mask = choose_paro(record, density=0.3).mask(0, 0)[0]
    assert mask[:, :2].all() and mask[:, :, :2].all() and not mask[:, 2:, 2:].all()


def test_a_live_pipeline_is_watched_and_left_as_it_was() -> None:
    pipe = sparse_wan()
    plain = draw(pipe)
    record = record_attention(pipe, lambda: draw(pipe), block=BLOCK, parts=2)
    assert record.layout == TokenLayout((3, 8, 8)) and record.layers == ("blocks.0.attn1", "blocks.1.attn1")
    assert record.sums.shape == (2, 2, 6, 2, 12, 12)
    assert torch.allclose(record.sums.sum((-1, -2)), torch.ones(2, 2, 6, 2), atol=1e-4)
    assert torch.equal(draw(pipe), plain)
    accelerate_pipeline(pipe, choose_paro(record, density=0.5), strict=True)
    draw(pipe)
    assert summary(pipe).denoisers[0].effects["paro_attention"].actual_frac == pytest.approx(0.5, abs=0.02)
    accelerate_pipeline(pipe, choose_paro(record, density=1.0), strict=True)
    assert torch.allclose(draw(pipe), plain, atol=1e-4)


def test_heads_may_be_given_the_orders_of_the_published_score() -> None:
    pipe = sparse_wan()
    record = record_attention(pipe, lambda: draw(pipe), block=BLOCK, parts=2, scores=True)
    assert len(record.scores) == 2 and record.scores[0].sparse.shape == record.scores[0].quant.shape == (6, 2)
    orders = published_orders(record.scores, alpha=0.3)
    config = choose_paro(record, density=0.4, orders=orders)
    assert torch.equal(config.orders, orders) and float(config.densities().mean()) == pytest.approx(0.4, abs=0.01)
    free = choose_paro(record, density=0.4, share="head")
    given = choose_paro(record, density=0.4, share="head", orders=free.orders)
    assert torch.equal(given.masks, free.masks), "the same orders have the same blocks, whoever chose them"
    with pytest.raises(ConfigError, match=r"of 2 layers and 2 heads, got \[2, 3\]"):
        choose_paro(record, density=0.4, orders=torch.zeros(2, 3, dtype=torch.uint8))
    assert record_attention(pipe, lambda: draw(pipe), block=BLOCK, parts=1).scores == ()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "give a density or a mass"),
        ({"density": 0.3, "mass": 0.9}, "give a density or a mass"),
        ({"density": 0.0}, r"density=0\.0"),
        ({"density": 0.3, "orders": (0, 6)}, "'orders' must be some of 0 to 5"),
    ],
)
def test_impossible_targets_are_named(asked: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_paro(record_of([0]), **asked)


def test_what_cannot_be_recorded_is_named() -> None:
    pipe = sparse_wan()
    with pytest.raises(ConfigError, match="nothing was drawn"):
        record_attention(pipe, lambda: None)
    with pytest.raises(ConfigError, match=r"no step fell into parts \[.*\] of 9"):
        record_attention(pipe, lambda: draw(pipe), block=BLOCK, parts=9)
    with pytest.raises(UnsupportedModelError, match="2 denoisers"):
        record_attention(tiny_pipeline("wan22"), lambda: None)
    with pytest.raises(UnsupportedModelError, match="no self-attention"):
        record_attention(tiny_pipeline("sana"), lambda: None)
