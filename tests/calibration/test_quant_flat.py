"""Learned transforms: better than none and than rotations where channels ask for it, kept only where they are."""

import dataclasses

import pytest
import torch
from torch import nn

from dit_accel.calibration.quant_fit import fit_layer
from dit_accel.calibration.quant_flat import learn_affine
from dit_accel.calibration.quant_inputs import moved_moments, prepared
from dit_accel.calibration.quant_job import QuantJob
from dit_accel.calibration.quant_record import LayerRecord
from dit_accel.passes.quantize.scheme import QuantScheme

FLAT = QuantScheme.parse("w4a4-flat")


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def record_of(rows: torch.Tensor) -> LayerRecord:
    return LayerRecord(
        bins=1, peaks=rows.abs().amax(0)[None], moments=rows.mT @ rows / len(rows), rows=rows, count=len(rows)
    )


def few_directions(size: int = 64, count: int = 400) -> torch.Tensor:
    """Channels of many sizes that depend on each other: no scaling and no fixed rotation makes them even."""
    return drawn(count, 6) @ drawn(6, size, seed=1) * torch.logspace(-1, 1, size) + 0.2 * drawn(count, size, seed=2)


def layer_of(size: int = 64, outputs: int = 48) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(size, outputs).requires_grad_(False)


def test_it_rounds_better_than_what_is_searched() -> None:
    layer, record = layer_of(), record_of(few_directions())
    searched = fit_layer(layer, record, dataclasses.replace(FLAT, flat=False), by_columns=False, correct=False)
    learned = fit_layer(layer, record, FLAT, by_columns=False, correct=False)
    assert learned.affine is not None and str(learned.scheme) == "w4a4-flat"
    assert learned.errors["balanced"] < 0.8 * searched.errors["balanced"] < learned.errors["nearest"]


def test_it_is_left_out_where_it_does_not_pay_or_cannot_be() -> None:
    prime = fit_layer(layer_of(61), record_of(drawn(200, 61)), FLAT, by_columns=False)
    assert prime.affine is None and not prime.scheme.flat
    layer, rows = layer_of(), torch.zeros(200, 64)
    rows[:, 5] = drawn(200)  # one channel: exact as it is in 8 bits, and nothing can be spread
    kept = fit_layer(layer, record_of(rows), QuantScheme.parse("w8a8-flat"), by_columns=False)
    assert torch.isfinite(kept.weight.dequantised()).all()


def test_moments_are_those_of_what_the_layer_will_see() -> None:
    record = record_of(few_directions())
    affine = learn_affine(layer_of().weight, record.rows, FLAT, rounds=5)
    smooth = torch.linspace(0.5, 2, 64)
    given = prepared(record.rows, FLAT, smooth, affine)
    wanted = given.mT @ given / len(given)
    assert torch.allclose(
        moved_moments(record, FLAT, smooth, affine), wanted, rtol=1e-3, atol=1e-3 * float(wanted.max())
    )


def test_it_is_repeated_and_kept(tmp_path) -> None:
    layer, record = layer_of(), record_of(few_directions())
    one, two = (learn_affine(layer.weight, record.rows, FLAT, rounds=10) for _ in range(2))
    assert torch.equal(one.left, two.left) and torch.equal(one.right, two.right)
    fit = fit_layer(layer, record, FLAT)
    assert {"m.a.left", "m.a.right"} <= fit.stored("m.a").keys()
    job = QuantJob(tmp_path, {"a": 1})
    job.keep_fits({("m.a", "w4a4-flat"): fit})
    (back,) = job.fits().values()
    assert back.affine is not None and fit.affine is not None and torch.equal(back.affine.left, fit.affine.left)
    assert back.scheme == fit.scheme and fit.errors["fitted"] == pytest.approx(back.errors["fitted"])
