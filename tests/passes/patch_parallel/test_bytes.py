"""Counted bytes are those of the formulas, for even and uneven rows, gathered and halo, rounded or not."""

import pytest
from ranks import Drawn, apart, drawn, plain

from dit_accel.passes.patch_parallel.formulas import (
    Figures,
    LayerShape,
    gathered_bytes,
    halo_bytes,
    released_pcpp_bytes,
    ulysses_bytes,
)
from dit_accel.passes.patch_parallel.rows import Share

LAYERS, HEADS, HEAD_DIM = 3, 2, 8  # of the tiny PixArt
STEPS, WARMUP = 6, 2
# 40 rows of 4 tokens: ten for each of four ranks, of which a halo of .3 is exactly three.
TALL = {"height": 640, "width": 64}


def settings(mode: str, **more: object) -> dict[str, object]:
    return {"mode": mode, "guidance": "off", "warmup": WARMUP, **more}


@pytest.mark.parametrize("size", [2, 3, 4])
def test_formulas(size: int) -> None:
    call = {**TALL, "num_inference_steps": STEPS}
    rounded = settings("partial", keys_and_values="int8")
    stale, partial, eight = drawn(size, "pixart", settings("stale"), settings("partial"), rounded, **call)
    layer = LayerShape(batch=2, columns=4, width=HEADS * HEAD_DIM, element_bytes=4)
    small = LayerShape(batch=2, columns=4, width=HEADS * HEAD_DIM, element_bytes=1, scale_bytes=4 * HEADS)
    # Of the stale evaluations the last one sends nothing: nobody would read it.
    late = LAYERS * (STEPS - WARMUP - 1)
    for rank in range(size):
        share = Share(40, 1, size, rank)
        assert stale[rank].sent(phase="steady") == late * gathered_bytes(layer, share)
        assert stale[rank].sent(phase="warmup") == LAYERS * WARMUP * gathered_bytes(layer, share)
        assert partial[rank].sent(phase="warmup") == stale[rank].sent(phase="warmup")
        assert partial[rank].sent(phase="steady") == late * halo_bytes(layer, share, 0.3)
        assert eight[rank].sent(phase="steady") == late * halo_bytes(small, share, 0.3)
        assert eight[rank].sent(phase="warmup") == LAYERS * WARMUP * gathered_bytes(small, share)
        output = STEPS * (size - 1) * max(share.counts) * 4 * 2 * 4 * (2 * 2 * 8)
        assert stale[rank].sent(phase="output") == output
    assert sum(each.sent() for each in partial) == sum(each.received() for each in partial)
    if size == 4:
        _claims(stale, partial)


def _claims(stale: list[Drawn], partial: list[Drawn]) -> None:
    """At N = 4 and r = 0.3: 85 % less of all ranks, 80 % less of an inner one, and less than that of a whole run."""
    most, all_of_it = figures(stale), figures(partial)
    steady, whole, worst = all_of_it.cut_from(most)
    assert steady == pytest.approx(1 - 2 * 0.3 / 4)
    assert whole == pytest.approx(0.85 * sum(each.sent(phase="steady") for each in stale) / most.whole_run)
    assert worst == pytest.approx((1 - 2 * 0.3 / 3) * stale[1].sent(phase="steady") / most.worst_rank)


def figures(ranks: list[Drawn]) -> Figures:
    return Figures.of([r.sent() for r in ranks], [r.sent(phase="steady") for r in ranks], STEPS - WARMUP - 1)


def test_what_the_page_says_is_saved() -> None:
    """The table of docs/parallel.md, and how PCPP's claim of about 70 % comes about."""
    layer = LayerShape(batch=1, columns=8, width=64, element_bytes=2)
    four = [Share(40, 1, 4, rank) for rank in range(4)]
    gathered = sum(gathered_bytes(layer, share) for share in four)
    for saved, sent in (
        (0.85, [halo_bytes(layer, share, 0.3) for share in four]),
        (0.5, [released_pcpp_bytes(layer, share) for share in four]),
        (0.5, [ulysses_bytes(layer, share) for share in four]),
    ):
        assert 1 - sum(sent) / gathered == pytest.approx(saved)
    inner, first_of_two = Share(40, 1, 8, 3), Share(40, 1, 2, 0)
    assert 1 - released_pcpp_bytes(layer, inner) / gathered_bytes(layer, inner) == pytest.approx(1 - 2 / 7)
    assert released_pcpp_bytes(layer, first_of_two) == gathered_bytes(layer, first_of_two)
    assert ulysses_bytes(layer, first_of_two) == gathered_bytes(layer, first_of_two)


def test_rounded_keys_and_values_cost_little() -> None:
    call = {"num_inference_steps": STEPS}
    exact, rounded = drawn(2, "pixart", settings("sync"), settings("sync", keys_and_values="int8"), **call)
    assert 0 < apart(rounded[0].picture, exact[0].picture) < 0.02
    # 8 values of one head: 8 bytes and a scale of 4, for 32 bytes of float32
    assert rounded[0].sent(phase="warmup") * 32 == exact[0].sent(phase="warmup") * 12
    assert apart(exact[0].picture, plain("pixart", **call)) < 2e-5
