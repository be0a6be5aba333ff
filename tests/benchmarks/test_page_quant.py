"""Quantisation's tables: from results, and honest where there are none."""

import json
from pathlib import Path
from typing import Any

import pytest
from pages.quant import (
    bits_block,
    exact_block,
    flat_block,
    joint_block,
    noise_block,
    quality_block,
    quant_tables,
)
from pages.quant_times import shipped_block, speed_block, whole_block
from sample_reports import sample_report

from dit_accel.errors import ConfigError

ABOUT: dict[str, Any] = {
    "model": "emoji-flux",
    "n": 8,
    "steps": None,
    "recorded": 64,
    "created_utc": "2026-12-01T",
    "environment": {"cpu": "a CPU", "gpu": None, "torch_threads": 1, "packages": {"torch": "2"}},
}
SCORES = {"psnr_db": 40.12, "worst_psnr_db": 30.5, "st_lpips": 0.00123}


def row(kind: str, first: int = 0, last: int = 0, nbytes: int = 50) -> dict[str, Any]:
    return {"kind": kind, **SCORES, "bytes": nbytes, "bytes_bf16": 100, "exact": [first, last]}


def test_what_was_not_measured_says_which_command_measures_it(tmp_path: Path) -> None:
    tables = quant_tables(tmp_path)
    for name, made in (("quality-emoji-sd", "quant-emoji-sd"), ("noise-emoji-wan", "quant-noise-emoji-wan")):
        said = tables[f"quant-{name}"]([])
        assert said.startswith("Not measured yet: `python benchmarks/quant_") and f"results/{made}.json`" in said
    (tmp_path / "quant-emoji-sd.json").write_text(json.dumps({**ABOUT, "rows": {"fp8": row("naive")}}))
    said = tables["quant-quality-emoji-sd"]([])
    assert "| fp8 | 0.500 |" in said and "`benchmarks/results/quant-emoji-sd.json`" in said
    (tmp_path / "quant-bits-emoji-sd.json").write_text("{}")
    with pytest.raises(ConfigError, match="not a result"):
        tables["quant-bits-emoji-sd"]([])


def test_the_commands_are_those_of_the_scripts() -> None:
    folder = Path(__file__).resolve().parents[2]
    for make in quant_tables(Path("nowhere")).values():
        said = make([])
        if said.startswith("Not measured"):
            script, _, rest = said.removeprefix("Not measured yet: `python ").partition(" ")
            text = (folder / script).read_text(encoding="utf-8")
            assert all(
                f'"{word}"' in text
                for word in rest.rstrip("`.").split()
                if word.startswith("--") and "no-" not in word
            )


def test_exact_steps_have_a_table_of_their_own() -> None:
    data = {**ABOUT, "rows": {"fp8": row("naive"), "a": row("exact", 1, 2, 75)}}
    assert "| 1 at the start, 2 at the end | 0.750 | 40.1 dB | 30.5 dB | 0.0012 |" in exact_block(data)
    assert "at the start" not in quality_block(data) and "64 search prompts" not in quality_block(data)
    data["rows"]["w8a8, calibrated"] = row("calibrated")
    assert "calibrated rows on 64 search prompts" in quality_block(data)


def test_bits_by_three_ways() -> None:
    own = {"how": "gram", "memory": 0.27, "taken": 0.269, "layers": {"w8a8": 20, "w4a8": 24}}
    data = {**ABOUT, "rows": {"gram 0.27": {**own, "foretold": 0.0012, "foretold_alone": 0.001, **SCORES}}}
    assert "| errors and how they add up | 0.270 | 0.269 | 24 w4a8, 20 w8a8 | 1.20e-03 | 1.00e-03 | 40.1 dB |" in (
        bits_block(data)
    )


def test_noise_of_both_widths_and_pictures() -> None:
    noise = {"TaylorSeer's, order 2": {"mean": 1.6, "most": 1.7, "independent": 2.0}}
    rows: dict[str, Any] = {"w8a8": {"noise": noise, "cosine": 0.16}, "w4a8": {"noise": {}, "cosine": 0.93}}
    data = {**ABOUT, "shipped": False, "speedup": 2.5, "rows": rows}
    said = noise_block(data)
    assert "| TaylorSeer's, order 2 | 1.60 | 1.70 |  |  |" in said and "0.16 at w8a8, 0.93 at w4a8" in said
    assert "In pictures" not in said
    rows["w8a8"]["pictures"] = {"quantised": SCORES, "joint fit": SCORES}
    assert "| w8a8, both, fitted on the quantised model | 40.1 dB | 0.0012 |" in noise_block(data)


def test_plans_found_together() -> None:
    rows = {"w4a8": {"shipped": True, "gain": 0.91, "scores": {"joint": SCORES, "trajectory": SCORES}}}
    said = joint_block({**ABOUT, "with": "fast", "rows": rows})
    assert "| w4a8: `fast` alone | 40.1 dB | 0.0012 |" in said and "0.91 at w4a8" in said


def test_learned_transforms_by_kind_of_layer() -> None:
    errors = dict.fromkeys(("plain", "learned"), 0.01)
    data = {**ABOUT, "bits": "w4a4", "layers": 44, "learned": 40, "pictures": {}}
    data["errors"] = {"ff.net.2": errors, "all layers": errors}
    said = flat_block(data)
    assert "| `ff.net.2` | 0.0100 | 0.0100 |" in said and "in 40 of 44 layers" in said and "PSNR" not in said
    data["pictures"] = dict.fromkeys(errors, SCORES)
    assert "| PSNR | 40.1 dB | 40.1 dB |" in flat_block(data)


def test_times_are_ratios_to_the_plain_layer_and_run() -> None:
    times = {"float32": 3000.0, "w8a8 int_mm float32": 1500.0, "w8a8 int_mm float32 compiled": 1000.0}
    times |= {"w8a8 dequantise float32": 4000.0, "torchao int8 float32": 6000.0}
    said = speed_block({**ABOUT, "unit": "us", "rows": [{"shape": [512, 256, 1024], "us": times}]})
    assert "| rows, in, out | dtype | plain | w8a8 | torchao int8 |" in said
    assert "| 512, 256, 1,024 | float32 | 3.00 ms | 3.00x (int_mm compiled) | 0.50x (eager) |" in said
    runs = {"fp32, plain": (4.0, 4.0), "bf16, plain": (2.0, 2.0), "bf16, w8a8, integers": (1.5, 1.0)}
    rows = {name: {"wall_s": wall, "process_s": own, "walls_s": [wall, wall]} for name, (wall, own) in runs.items()}
    said = whole_block({**ABOUT, "rounds": 5, "rows": rows})
    assert "| bf16, w8a8, integers | 1.50 s | 1.50 to 1.50 s | 1.00 s | 4.00x | 2.00x |" in said


def test_plans_that_ship_are_told_with_what_they_hold(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    folder = tmp_path / "emoji-flux" / "w8a8"
    folder.mkdir(parents=True)
    layers = {"a": "w8a8", "b": "w8a8-had"}
    plan = {"passes": [{"type": "quantize", "layers": layers}]}
    (folder / "dit_accel_plan.json").write_text(json.dumps(plan))
    save_file({"a.inverse_smooth": torch.ones(2), "a.bias": torch.ones(2)}, folder / "dit_accel_plan.safetensors")
    said = shipped_block(("emoji-flux",), tmp_path)
    assert "| `emoji-flux` | `w8a8` | 0.0 MB | 2 | 1 | 1 | not measured yet |" in said
    assert "| `emoji-flux` | `w4a8` | none ships |" in said
    report = tmp_path / "report.json"
    sample_report().save(report)
    (folder / "report.json").write_text(report.read_text().replace("static_cache", "quantize"))
    said = shipped_block(("emoji-flux",), tmp_path)
    assert "| 2 | 1 | 1 | 50.0% of float32 | 25.0 dB |" in said
