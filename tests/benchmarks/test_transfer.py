"""The transfer table: what its cases do to a pipeline is undone, a finished case is kept, and the page shows it."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transfer
from pages.transfer import transfer_block

from dit_accel import load_embedded
from dit_accel.errors import ConfigError
from dit_accel.evaluation.progress_files import read_json
from dit_accel.families.targets import find_targets
from dit_accel.pipelines.generation import GenerationSettings
from dit_accel.session.presets import resolve_preset

MODEL = "emoji-flux"


@pytest.fixture(scope="module")
def trial() -> transfer.Trial:
    pipe = load_embedded(MODEL)
    pipe.set_progress_bar_config(disable=True)
    return transfer.Trial(pipe, 2)


@pytest.mark.parametrize("change", [transfer.with_lora, transfer.in_bfloat16])
def test_a_changed_pipeline_draws_otherwise_and_is_itself_afterwards(trial: transfer.Trial, change: Any) -> None:
    few = GenerationSettings(num_inference_steps=3)
    plain = trial.draw(few)
    with change(trial.pipe):
        assert not torch.equal(trial.draw(few), plain)
    assert torch.equal(trial.draw(few), plain)


def test_a_plan_fitted_anew_computes_the_same_steps_by_other_weights(trial: transfer.Trial) -> None:
    plan = resolve_preset("extreme", find_targets(trial.pipe))
    fitted = trial.fitted(plan, GenerationSettings(), 2)
    before, after = transfer.trajectory_of(plan), transfer.trajectory_of(fitted)
    assert before.weights is not None
    assert after.weights is not None
    assert before.computed == after.computed
    assert not torch.equal(before.weights, after.weights)
    half = transfer.trajectory_of(transfer.between(plan, fitted)).weights
    assert half is not None
    torch.testing.assert_close(half, (before.weights + after.weights) / 2)


def test_a_finished_case_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, measured = transfer.cases, []

    def first_two(*args: Any) -> dict[str, Any]:
        def told(name: str, measure: Any) -> Any:
            return lambda: (measured.append(name), measure())[1]

        return {name: told(name, measure) for name, measure in list(real(*args).items())[:2]}

    monkeypatch.setattr(transfer, "cases", first_two)
    for _ in range(2):
        transfer.main(MODEL, "extreme", 2, "2", 1, tmp_path, tmp_path / "work")
    assert measured == ["as calibrated", "other seeds"]
    report = read_json(tmp_path / f"transfer-{MODEL}.json")
    assert report is not None
    case = report["cases"]["as calibrated"]
    assert case["computed"] == 3
    assert case["plan"]["psnr_db"] > case["fewer_steps"]["psnr_db"]
    table = transfer_block(report)
    assert f"| other seeds | 3 of 28 | {report['cases']['other seeds']['plan']['psnr_db']:.1f} dB |" in table
    assert "n = 2 held-out prompts" in table


def test_the_page_refuses_what_is_no_such_report() -> None:
    with pytest.raises(ConfigError, match="not a report of"):
        transfer_block({"cases": {}})
