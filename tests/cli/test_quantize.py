"""``dit-accel quantize``, as a user runs it."""

import json
from pathlib import Path
from typing import Any

import pytest

from dit_accel import AccelerationPlan, QuantizeConfig, TrajectoryConfig
from dit_accel.calibration import quant_choose, quant_joint, quant_search

QUICK = ("--steps", "2", "--num-prompts", "2")


def quantize(run: Any, folder: str, out: Path, *more: str) -> Any:
    return run("quantize", folder, "-o", str(out), *QUICK, *more)


def config_of(folder: Path) -> QuantizeConfig:
    config = AccelerationPlan.from_pretrained(folder).passes[0]
    assert isinstance(config, QuantizeConfig)
    return config


def test_one_width_for_all(run: Any, tiny_folder: str, tmp_path: Path) -> None:
    result = quantize(run, tiny_folder, tmp_path / "q", "--bits", "w4a8", "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert 0 < said["memory"] < 1 and said["scores"]["psnr_db"] > 5
    config = config_of(tmp_path / "q")
    assert config.backend == "integers" and set(said["layers"]) == set(config.layers)
    assert {width[:4] for width in config.layers.values()} == {"w4a8"}
    assert any(name.endswith(".multiplier") for name in config.stored)
    drawn = run("generate", "a cat", "--model", tiny_folder, "--plan", str(tmp_path / "q"), "--steps", "2")
    assert drawn.exit_code == 0, drawn.output


@pytest.mark.slow
def test_a_budget_is_kept_and_the_search_goes_on(
    run: Any, tiny_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("scipy")
    out = tmp_path / "q"

    def stop(*args: Any, **more: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(quant_search, "gram_matrix", stop)
    stopped = quantize(run, tiny_folder, out, "--memory", "0.6")
    assert stopped.exit_code == 130 and "goes on from here" in stopped.output
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    # What was fitted is not fitted again.
    monkeypatch.setattr(quant_search, "fit_layer", stop)
    for how in ("gram", "diagonal", "decoupled"):
        result = quantize(run, tiny_folder, out, "--memory", "0.6", "--how", how, "--json")
        assert result.exit_code == 0, result.output
        said = json.loads(result.stdout)
        assert said["memory"] <= 0.6 and len(set(said["layers"].values())) > 1
    other = quantize(run, tiny_folder, out, "--bits", "w4a16", "--memory", "0.6")
    assert other.exit_code == 2 and "quantisation plan" in other.output


def test_what_is_fitted_is_kept_before_the_stage_is_done(
    run: Any, tiny_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, fit_layer = [], quant_search.fit_layer

    def stop(*args: Any, **more: Any) -> Any:
        asked.append(args)
        if len(asked) == 6:
            raise KeyboardInterrupt
        return fit_layer(*args, **more)

    monkeypatch.setattr(quant_search, "KEPT_EVERY", 2)
    monkeypatch.setattr(quant_search, "fit_layer", stop)
    assert quantize(run, tiny_folder, tmp_path / "q", "--bits", "w8a8").exit_code == 130
    kept = json.loads((tmp_path / "q" / "progress" / "fits.json").read_text(encoding="utf-8"))
    assert len(kept) == 4


def test_a_trajectory_is_fitted_on_the_quantised_model(
    run: Any, tiny_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quant_joint, "available_perceptual", tuple)
    half = AccelerationPlan(name="half", passes=(TrajectoryConfig(speedup=2.0),)).save_pretrained(tmp_path / "half")
    out = tmp_path / "q"
    result = quantize(run, tiny_folder, out, "--bits", "w8a8", "--with", str(half.parent), "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)["joint"]
    assert said["gain"] <= 1.5 * (1 + 1e-5) and set(said["scores"]) == {"quantised", "trajectory", "together", "joint"}
    plan = AccelerationPlan.from_pretrained(out / "joint")
    assert [type(config) for config in plan.passes] == [QuantizeConfig, TrajectoryConfig]
    assert plan.passes[0] == config_of(out) and "not certified" in plan.notes[0]
    refused = run("calibrate", tiny_folder, "--on-plan", str(out))
    assert refused.exit_code == 2 and "--on-plan goes with --sites" in refused.output
    refused = quantize(run, tiny_folder, out, "--bits", "w8a8", "--with", "w8a8")
    assert refused.exit_code == 2 and "quantises too" in refused.output


def test_it_is_measured_on_held_out_prompts_at_once(run: Any, tiny_folder: str, tmp_path: Path) -> None:
    result = quantize(run, tiny_folder, tmp_path / "q", "--bits", "w8a8", "--certify", "1", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["certified"] is False  # of one prompt
    report = json.loads((tmp_path / "q" / "certified" / "report.json").read_text(encoding="utf-8"))
    assert [each["name"] for each in report["variants"]][:2] == ["plain", "w8a8"]

    refused = quantize(run, tiny_folder, tmp_path / "q", "--bits", "w8a8", "--certify", "1")
    assert refused.exit_code == 2 and "holds a plan or a report already" in " ".join(refused.output.split())
    AccelerationPlan.from_pretrained(tmp_path / "q").save_pretrained(tmp_path / "q" / "certified")
    again = quantize(run, tiny_folder, tmp_path / "q", "--bits", "w8a8", "--certify", "1", "--json")
    assert again.exit_code == 0, again.output  # what was measured of this very plan is not measured again
    kept = json.loads((tmp_path / "q" / "certified" / "report.json").read_text(encoding="utf-8"))
    assert kept["created_utc"] == report["created_utc"]


@pytest.mark.slow
def test_the_distance_that_was_asked_for_is_kept(
    run: Any, tiny_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("scipy")
    monkeypatch.setattr(quant_choose, "TOLERANCE", 0.002)  # of so small a model a hundredth is many layers
    from dit_accel.evaluation.metrics.perceptual import available_perceptual

    if not available_perceptual():
        pytest.skip("no perceptual distance can be measured here")
    name = available_perceptual()[0]
    loose = quantize(run, tiny_folder, tmp_path / "q", "--max-lpips", "1.0", "--json")
    assert loose.exit_code == 0, loose.output
    least = json.loads(loose.stdout)
    asked = least["scores"][name] / 8
    tight = json.loads(quantize(run, tiny_folder, tmp_path / "q", "--max-lpips", str(asked), "--json").stdout)
    assert tight["scores"][name] <= asked and tight["memory"] > least["memory"]
    both = quantize(run, tiny_folder, tmp_path / "q", "--max-lpips", str(asked), "--memory", str(least["memory"]))
    assert both.exit_code == 2 and "Allow either" in both.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--bits", "w9a9"), "'w9a9' is no scheme"),
        (("--modulation", "int8"), "'int8' is no scheme"),
        (("--memory", "0.01"), "is the least"),
        (("--how", "guess"), "'how' must be one of gram"),
        (("--latency", "0.5", "--how", "decoupled"), "not for 'decoupled'"),
        (("--num-prompts", "5000"), "prompts are too few"),
    ],
)
def test_what_is_refused(run: Any, tiny_folder: str, tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    pytest.importorskip("scipy")
    result = run("quantize", tiny_folder, "-o", str(tmp_path / "q"), "--steps", "2", "--num-prompts", "1", *arguments)
    assert result.exit_code == 2 and says in " ".join(result.output.split())
