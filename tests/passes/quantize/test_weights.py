"""Weights in few bits: how far off they are, and what they take."""

import pytest
import torch

from dit_accel.errors import ConfigError
from dit_accel.passes.quantize.scheme import QuantScheme
from dit_accel.passes.quantize.weights import FP8_LARGEST, quantise_weight


def matrix(outputs: int = 48, size: int = 160, seed: int = 0) -> torch.Tensor:
    return torch.randn(outputs, size, generator=torch.Generator().manual_seed(seed))


def error(weight: torch.Tensor, scheme: str, **more: torch.Tensor) -> float:
    found = quantise_weight(weight, QuantScheme.parse(scheme), **more).dequantised()
    return float((found - weight).norm() / weight.norm())


@pytest.mark.parametrize("scheme", ["w8a8", "w8a8-wasym"])
def test_8_bits_are_at_most_half_a_step_off(scheme: str) -> None:
    weight = matrix()
    found = quantise_weight(weight, QuantScheme.parse(scheme))
    assert found.values.dtype == torch.int8
    assert torch.all((found.dequantised() - weight).abs() <= found.scale[:, None] / 2 * 1.0001)


@pytest.mark.parametrize("size", [1, 63, 64, 65, 160])
@pytest.mark.parametrize("scheme", ["w4a8", "w4a8-wsym", "w4a8-channel", "w4a8-g32"])
def test_4_bits_of_any_width(size: int, scheme: str) -> None:
    weight = matrix(8, size)
    found = quantise_weight(weight, QuantScheme.parse(scheme))
    whole = found.integers()
    assert found.values.shape == (8, -(-size // 2)) and whole.shape == weight.shape and whole.dtype == torch.int8
    # Whole steps of a group, at most 16 of them: nothing was clipped on its way into int8.
    group = min(found.group, size)
    assert len(whole[0, :group].unique()) <= 16
    assert float((found.dequantised() - weight).abs().max()) <= float(weight.abs().max()) / 6


def test_whole_steps_of_groups_cost_nothing_against_steps_of_any_size() -> None:
    """The usual grid of a group, from its least to its largest value in 15 steps of any size, is no closer."""
    weight = matrix(64, 512)
    groups = weight.view(64, 8, 64)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    step = (high - low) / 15
    zero = (-low / step).round()
    usual = (((groups / step).round() + zero).clamp(0, 15) - zero) * step
    assert error(weight, "w4a8") < float((usual.view_as(weight) - weight).norm() / weight.norm())


def test_more_bits_and_smaller_groups_are_closer() -> None:
    weight = matrix(64, 512)
    errors = [error(weight, scheme) for scheme in ("w4a8-channel", "w4a8-g128", "w4a8", "w4a8-g16", "w8a8")]
    assert errors == sorted(errors, reverse=True)


def test_channels_that_count_more_are_closer() -> None:
    weight = matrix(64, 128)
    importance = torch.ones(128)
    importance[::8] = 100.0

    def loud(found: torch.Tensor) -> float:
        return float((found - weight)[:, ::8].norm())

    plain = quantise_weight(weight, QuantScheme.parse("w4a8")).dequantised()
    assert loud(quantise_weight(weight, QuantScheme.parse("w4a8"), importance).dequantised()) < loud(plain)


def test_floats() -> None:
    weight = matrix()
    found = quantise_weight(weight, QuantScheme.parse("fp8"))
    assert found.values.dtype == torch.float8_e4m3fn and float(found.values.float().abs().max()) == FP8_LARGEST
    assert error(weight, "fp8") < 0.03


def test_what_it_takes() -> None:
    weight = matrix(128, 1024)
    taken = quantise_weight(weight, QuantScheme.parse("w4a8")).nbytes
    assert taken == 128 * (512 + 2 * 16 + 4) and taken < weight.half().nbytes / 3.7


def test_channels_of_noughts() -> None:
    weight = matrix(4, 64)
    weight[1] = 0
    for scheme in ("w8a8", "w8a8-wasym", "w4a8", "w4a8-channel", "fp8"):
        found = quantise_weight(weight, QuantScheme.parse(scheme)).dequantised()
        assert found.isfinite().all() and torch.equal(found[1], torch.zeros(64))


def test_what_cannot_be_rounded() -> None:
    weight = matrix(2, 8)
    weight[0, 3] = float("nan")
    with pytest.raises(ConfigError, match="1 of its 16 weights are not finite"):
        quantise_weight(weight, QuantScheme())
    with pytest.raises(ConfigError, match="40000 input channels"):
        quantise_weight(torch.zeros(1, 40000), QuantScheme())
