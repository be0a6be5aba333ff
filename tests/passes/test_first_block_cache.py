"""FirstBlockCache as a pass: bit-equal to diffusers' own, and what always holds of a pass."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from drawing import draw
from snapshot import assert_same, snapshot

from dit_accel import FirstBlockCacheConfig, accelerate_pipeline, remove_acceleration, summary

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

NAMES = ("emoji-pixart", "emoji-flux", "emoji-wan")
Embedded = Callable[[str], Any]


@contextmanager
def diffusers_own(pipe: Any, threshold: float) -> Iterator[None]:
    """Their hooks; PixArt is lent what it lacks for them, as the benchmarks do."""
    from rivals import lent
    from rivals.snapshot import Snapshot

    before = Snapshot(pipe)
    try:
        lent.make_cacheable(pipe).enable_cache(diffusers.FirstBlockCacheConfig(threshold=threshold))
        lent.provide_context(pipe)
        yield
        pipe.transformer.disable_cache()
    finally:
        before.restore()


@pytest.mark.parametrize("threshold", [0.3, 0.4, 0.6])
@pytest.mark.parametrize("name", NAMES)
def test_equals_diffusers(embedded: Embedded, name: str, threshold: float) -> None:
    pipe = embedded(name)
    plain = draw(pipe, name)
    with diffusers_own(pipe, threshold):
        expected = draw(pipe, name)
    before = snapshot(pipe)
    accelerate_pipeline(pipe, FirstBlockCacheConfig(threshold=threshold), strict=True)
    assert torch.equal(draw(pipe, name), expected)
    assert torch.equal(draw(pipe, name), expected), "a second run sees the first one"
    effect = summary(pipe).denoisers[0].effects["first_block_cache"]
    assert effect.planned_frac == effect.actual_frac > 0
    assert not torch.equal(expected, plain)
    remove_acceleration(pipe)
    assert_same(before, snapshot(pipe))
    assert torch.equal(draw(pipe, name), plain)
