"""Rounding by what a layer is given: recorded, smoothed, rotated, column by column."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_call, tiny_pipeline
from torch import nn

from dit_accel import QuantizeConfig, accelerated, is_accelerated
from dit_accel.calibration.quant_fit import _correction, fit_layer
from dit_accel.calibration.quant_gram import layer_of
from dit_accel.calibration.quant_inputs import as_rounded, moved_moments, prepared, smoothing
from dit_accel.calibration.quant_job import QuantJob
from dit_accel.calibration.quant_record import LayerRecord, record_layers
from dit_accel.calibration.quant_round import output_error, round_by_columns
from dit_accel.errors import ConfigError
from dit_accel.passes.quantize.replaced import turned
from dit_accel.passes.quantize.roles import Found
from dit_accel.passes.quantize.scheme import QuantScheme
from dit_accel.passes.quantize.ways import Ways
from dit_accel.passes.quantize.weights import quantise_weight

W4A8, W8A8 = QuantScheme.parse("w4a8"), QuantScheme()


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def record_of(rows: torch.Tensor, bins: int = 2) -> LayerRecord:
    halves = rows.chunk(bins)
    return LayerRecord(
        bins=bins,
        peaks=torch.stack([half.abs().amax(0) for half in halves]),
        moments=rows.mT @ rows / len(rows),
        rows=rows,
        count=len(rows),
    )


def mixed_rows(size: int = 128, count: int = 400) -> torch.Tensor:
    """Channels that depend on each other, as those behind a layer do."""
    return drawn(count, size // 4) @ drawn(size // 4, size, seed=1) + 0.1 * drawn(count, size, seed=2)


def with_outliers(size: int = 128) -> torch.Tensor:
    rows = drawn(400, size)
    rows[:, ::16] *= 40  # always there
    rows[:200, 3::32] *= 15  # in the first half of a run
    return rows


def test_column_by_column_is_closer_than_to_the_nearest() -> None:
    weight, rows = drawn(64, 128, seed=3), mixed_rows()
    moments = record_of(rows).moments
    nearest = output_error(weight, quantise_weight(weight, W4A8).dequantised(), moments)
    fitted = output_error(weight, round_by_columns(weight, W4A8, moments).dequantised(), moments)
    assert fitted < nearest / 4


@pytest.mark.parametrize("size", [64, 100])
def test_what_is_rounded_column_by_column_fits_into_its_bits(size: int) -> None:
    weight = drawn(16, size, seed=3)
    weight[:, 5] = 30.0
    found = round_by_columns(weight, W4A8, record_of(mixed_rows(size)).moments)
    whole = found.integers()
    again = (found.dequantised() / found.scale[:, None]).round()
    assert torch.equal(whole.float(), again) and len(whole[0, :64].unique()) <= 16
    assert found.dequantised().isfinite().all()


def test_inputs_of_which_nothing_is_known_are_rounded_to_the_nearest() -> None:
    """Independent channels of one size: there is nothing to make good."""
    weight = drawn(16, 64, seed=3)
    found = round_by_columns(weight, W4A8, torch.eye(64))
    assert torch.equal(found.values, quantise_weight(weight, W4A8).values)
    with pytest.raises(ConfigError, match="4-bit weights in groups"):
        round_by_columns(weight, W8A8, torch.eye(64))
    # Channels that are always 0, and moments of fewer rows than channels.
    few = torch.zeros(64, 64)
    few[:2, :2] = 1.0
    assert round_by_columns(weight, W4A8, few).dequantised().isfinite().all()


@pytest.mark.parametrize("alpha", [None, 0.3, 0.7])
@pytest.mark.parametrize("text", ["w4a8", "w4a8-had"])
def test_smoothing_and_rotation_leave_the_product_as_it_is(alpha: float | None, text: str) -> None:
    scheme = QuantScheme.parse(text)
    weight, rows = drawn(32, 96, seed=3).double(), with_outliers(96)
    record = record_of(rows)
    smooth = smoothing(weight.float(), record.peak, alpha)
    moved = turned(weight, scheme, smooth)
    plain = as_rounded(rows, QuantScheme.parse("w4a16"), None, record)
    assert torch.equal(plain, rows)

    given = prepared(rows, scheme, smooth)
    assert torch.allclose((given @ moved.mT).double(), rows.double() @ weight.mT, rtol=1e-3, atol=1e-2)
    moments = moved_moments(record, scheme, smooth)
    assert torch.allclose(moments, given.mT @ given / len(given), rtol=1e-3, atol=1e-3)


def test_outliers_are_smoothed_and_rotated_and_nothing_else_is() -> None:
    layer = nn.Linear(128, 64)
    found = fit_layer(layer, record_of(with_outliers()), W4A8, by_columns=False, correct=False)
    assert found.errors["balanced"] < found.errors["nearest"] / 2
    assert found.alpha is not None and found.inverse_smooth is not None
    plain = fit_layer(layer, record_of(drawn(400, 128)), W8A8)
    assert plain.alpha is None and not plain.scheme.rotate and plain.inverse_smooth is None


def test_a_mean_error_goes_into_the_bias() -> None:
    layer = nn.Linear(128, 64, bias=False)
    rows = drawn(400, 128) + 3.0
    without = fit_layer(layer, record_of(rows), W4A8, by_columns=False, correct=False, alphas=(), rotate=False)
    found = fit_layer(layer, record_of(rows), W4A8, by_columns=False, alphas=(), rotate=False)
    assert without.bias is None and found.bias is not None and found.bias.shape == (64,)
    assert found.errors["fitted"] < without.errors["fitted"] / 2


def test_outputs_that_are_too_small_get_a_gain() -> None:
    """CacheQuant's first coefficient: found from what is given and what is wanted, 1 where it would be chance."""
    wanted = drawn(400, 8) + 2.0
    given = wanted / torch.linspace(0.8, 1.25, 8) + 0.01 * drawn(400, 8, seed=1)
    gain, more, left = _correction(given, wanted)
    assert gain is not None and torch.allclose(gain, torch.linspace(0.8, 1.25, 8), atol=0.01)
    assert more.abs().max() < 0.05 and left < 1e-3
    none, _, _ = _correction(wanted + 0.1 * drawn(400, 8, seed=1), wanted)
    assert none is None
    still, _, error = _correction(torch.ones(400, 8), wanted)  # a channel that never changes says nothing of a slope
    assert still is None and error < 1


def test_a_gain_reaches_the_layer_and_the_plan(tmp_path: Path) -> None:
    layer = nn.Linear(64, 8)
    found = fit_layer(layer, record_of(drawn(400, 64)), W8A8)
    assert found.gain is None
    scaled = replace(found, gain=torch.linspace(0.5, 2, 8))
    assert torch.equal(scaled.stored("a")["a.gain"], torch.linspace(0.5, 2, 8))
    place = Found(path="a", parent=nn.Module(), name="a", layer=layer, role="block")
    one, two = (layer_of(place, each, Ways("reference")) for each in (found, scaled))
    x = drawn(3, 64)
    assert torch.allclose(two(x) - two.bias, (one(x) - one.bias) * torch.linspace(0.5, 2, 8), atol=1e-5)
    job = QuantJob(tmp_path, {"a": 1})
    job.keep_fits({("a", "w8a8"): scaled})
    again = job.fits()["a", "w8a8"].gain
    assert again is not None and torch.equal(again, torch.linspace(0.5, 2, 8))


@pytest.mark.parametrize("text", ["w8a8-static", "w8a8-bins", "w8a8-tensor", "w8a8-aasym", "fp8"])
def test_fixed_scales_and_other_grids(text: str) -> None:
    layer, rows = nn.Linear(64, 32), drawn(200, 64)
    rows[100:] *= 3
    scheme = QuantScheme.parse(text)
    found = fit_layer(layer, record_of(rows), scheme, alphas=())
    assert found.errors["fitted"] < 0.01
    if text == "w8a8-bins":
        assert found.act_scale is not None and float(found.act_scale[1] / found.act_scale[0]) == pytest.approx(
            3, rel=0.3
        )
    if text == "w8a8-static":
        assert found.act_scale is not None and found.act_scale.shape == (1,)


@pytest.mark.parametrize("text", ["w8a8", "w4a8", "w4a8-had"])
def test_a_weight_that_is_the_nearest_one_is_not_kept_twice(text: str) -> None:
    layer, scheme = nn.Linear(128, 64), QuantScheme.parse(text)
    record = record_of(with_outliers())
    nearest = fit_layer(layer, record, scheme, by_columns=False)
    kept = nearest.needed("a.b", layer.weight)
    assert "a.b.bias" in kept and not any(name.endswith((".values", ".scale", ".multiplier")) for name in kept)
    again = quantise_weight(
        turned(layer.weight.detach(), nearest.scheme, kept.get("a.b.inverse_smooth")), nearest.scheme
    )
    assert torch.equal(again.values, nearest.weight.values) and torch.equal(again.scale, nearest.weight.scale)
    if text != "w8a8":
        fitted = fit_layer(layer, record_of(mixed_rows()), scheme)
        assert fitted.needed("a.b", layer.weight).keys() == fitted.stored("a.b").keys()


@pytest.mark.parametrize("name", ["pixart", "wan"])
def test_recorded_layers_and_a_plan_of_them(name: str) -> None:
    pipe = tiny_pipeline(name)

    def run() -> Any:
        first = pipe(**tiny_call(name, num_inference_steps=4))[0]
        return first if isinstance(first, torch.Tensor) else torch.stack(list(first))

    plain = run()
    records = record_layers(pipe, run, bins=2, rows=50)
    assert not is_accelerated(pipe) and torch.equal(run(), plain)
    path = "transformer.transformer_blocks.0.ff.net.2" if name == "pixart" else "transformer.blocks.0.ffn.net.2"
    layer = pipe.transformer.get_submodule(path.removeprefix("transformer."))
    record = records[path]
    assert record.rows.shape[0] <= 50 and record.moments.shape == (layer.in_features, layer.in_features)
    assert (record.peaks > 0).all() and float(record.rows.abs().max()) <= float(record.peak.max())
    assert torch.allclose(record.moments.diagonal().sqrt() <= record.peak, torch.tensor(True))
    shown: list[int] = []
    other = record_layers(pipe, lambda: shown.append(1) or run(), lambda: shown.append(2) or run(), bins=2, rows=50)
    assert shown == [1, 2] and torch.equal(other[path].moments, record.moments) and len(other[path].rows) == 50
    names = list(records)[:4]
    stored: dict[str, torch.Tensor] = {}
    schemes = {}
    for each in names:
        fit = fit_layer(pipe.transformer.get_submodule(each.removeprefix("transformer.")), records[each], W4A8)
        stored |= fit.stored(each)
        schemes[each] = str(fit.scheme)
    errors = []
    for kept in ({}, stored):
        with accelerated(pipe, [QuantizeConfig(bits="plain", modulation="plain", layers=schemes, stored=kept)]):
            errors.append(float((run() - plain).norm()))
    assert 0 < errors[1] < errors[0]


def test_large_layers_are_recorded_in_parts() -> None:
    from dit_accel.calibration.quant_record import in_parts

    assert in_parts({"a": 256, "b": 1024}) == [["a", "b"]]
    assert in_parts(dict.fromkeys("abc", 30_000)) == [["a", "b"], ["c"]]
