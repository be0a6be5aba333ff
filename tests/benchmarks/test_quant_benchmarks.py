"""What the benchmarks of quantisation compare, and that they go on where they were."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quant_bits import widths_of
from quant_common import resumed, save
from quant_noise import forecasts, row_of
from quant_quality import BF16, FITTED, NAIVE, rows_of

from dit_accel import AccelerationPlan, QuantizeConfig
from dit_accel.passes.quantize.scheme import QuantScheme


def test_naive_rows_stand_beside_the_plans_that_ship() -> None:
    rows = rows_of("emoji-flux")
    assert set(NAIVE) < set(rows) and not set(FITTED) & set(rows) and BF16 not in rows
    assert rows["w4a8, the plan that ships"][1].stored
    exact = [config for kind, config in rows.values() if kind == "exact"]
    assert [(config.exact_first, config.exact_last) for config in exact] == [(0, 0), (1, 0), (0, 1), (2, 2)]
    assert any(config.layers for kind, config in rows_of("emoji-wan").values() if kind == "naive")


def test_rows_that_are_known_are_kept_when_all_else_is_the_same(tmp_path: Path) -> None:
    path, asked = tmp_path / "r.json", {"model": "a", "n": 8, "rows": {}}
    save(path, {**asked, "rows": {"fp8": {"psnr_db": 30.0}}})
    assert resumed(path, asked)["rows"] == {"fp8": {"psnr_db": 30.0}}
    assert resumed(path, {**asked, "n": 4})["rows"] == {}
    assert resumed(None, asked) == resumed(tmp_path / "none.json", asked) == asked


@dataclass
class Fit:
    scheme: QuantScheme


def test_widths_are_found_by_the_scheme_that_was_fitted() -> None:
    fits: Any = {
        ("a", "w4a8"): Fit(QuantScheme.parse("w4a8-had")),
        ("a", "w8a8"): Fit(QuantScheme.parse("w8a8")),
        ("b", "w4a8"): Fit(QuantScheme.parse("w4a8")),
        ("b", "w8a8"): Fit(QuantScheme.parse("w8a8-had")),
        ("c", "w4a8"): Fit(QuantScheme.parse("w4a8")),
    }
    config = QuantizeConfig(layers={"a": "w4a8-had", "b": "w8a8-had", "c": "plain"})

    @dataclass
    class Found:
        plan: AccelerationPlan
        fits: Any

    found: Any = Found(AccelerationPlan(passes=(config,)), fits)
    assert widths_of(found) == {"a": "w4a8", "b": "w8a8"}


def test_differences_multiply_the_noise_of_strangers_and_not_of_one_error() -> None:
    """Weights 2 and -1 of neighbouring steps: root of 5 if their errors are strangers, 1 if they are the same."""
    import torch

    rows = forecasts(6, 2)["from neighbouring steps, order 1, 1 to 3 ahead"]
    assert rows[2] == {1: 2.0, 0: -1.0} and rows[4] == {1: 4.0, 0: -3.0}
    apart = torch.eye(6)
    strangers, same = row_of({2: rows[2]}, apart), row_of({2: rows[2]}, torch.ones(6, 3))
    assert strangers is not None and same is not None
    assert abs(strangers["mean"] - 5**0.5) < 1e-6 and abs(strangers["independent"] - 5**0.5) < 1e-6
    assert abs(same["mean"] - 1) < 1e-6
    assert row_of({}, apart) is None
