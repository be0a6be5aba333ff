"""TeaCache as a pass: bit-equal to an independent implementation, and what always holds of a pass."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from drawing import draw
from snapshot import assert_same, snapshot
from teacache_reference import Skipper

from dit_accel import TeaCacheConfig, accelerate_pipeline, remove_acceleration, summary

NAMES = ("emoji-pixart", "emoji-flux", "emoji-wan")
COEFFICIENTS = (4.0, -2.0, 1.0, 0.9, 0.01)
Embedded = Callable[[str], Any]


def config(threshold: float, **more: Any) -> TeaCacheConfig:
    return TeaCacheConfig(threshold=threshold, coefficients=COEFFICIENTS, **more)


@pytest.mark.parametrize("threshold", [0.2, 0.4, 0.8])
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_reference(embedded: Embedded, name: str, threshold: float) -> None:
    pipe = embedded(name)
    plain = draw(pipe, name)
    polynomial = np.poly1d(COEFFICIENTS)
    skipper = Skipper(pipe, threshold=threshold, predict=lambda d: max(0.0, float(polynomial(d))))
    try:
        expected = draw(pipe, name)
    finally:
        skipper.undo()
    before = snapshot(pipe)
    accelerate_pipeline(pipe, config(threshold), strict=True)
    assert torch.equal(draw(pipe, name), expected)
    assert torch.equal(draw(pipe, name), expected), "a second run sees the first one"
    effect = summary(pipe).denoisers[0].effects["teacache"]
    assert effect.planned_frac == effect.actual_frac == skipper.skipped / skipper.calls > 0
    assert not torch.equal(expected, plain)
    remove_acceleration(pipe)
    assert_same(before, snapshot(pipe))
    assert torch.equal(draw(pipe, name), plain)
