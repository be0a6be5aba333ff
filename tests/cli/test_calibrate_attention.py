"""``dit-accel calibrate --attention``, as a user runs it."""

import json
from pathlib import Path
from typing import Any

import pytest

from dit_accel.calibration import attention_search
from dit_accel.plan.plan import AccelerationPlan

QUICK = ("--steps", "4", "--num-prompts", "2", "--attention", "--block", "16", "--parts", "1")


def test_plans_are_saved_told_of_and_joined(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_search, "available_perceptual", tuple)
    monkeypatch.setattr(attention_search, "LADDER", (0.25, 1.0))
    base = ("calibrate", "emoji-pixart", "-o", str(tmp_path), *QUICK)
    result = run(*base, "--mass", "0.9", "--json")
    assert result.exit_code == 0, result.output
    (point,) = json.loads(result.stdout)["points"]
    plan = AccelerationPlan.from_pretrained(point["folder"])
    assert plan.passes[0].type_name == "paro_attention" and point["target"] == 0.9 and point["psnr_db"] > 5
    again = run(*base, "--mass", "0.9", "--plan", point["folder"])
    assert again.exit_code != 0 and "decides on attention scores already" in again.output
    shown = run(*base, "--mass", "0.95")
    assert shown.exit_code == 0 and "attention-mass-0.95" in shown.stdout and "dit-accel certify" in shown.output


def test_searches_exclude_each_other(run: Any, tiny_folder: str) -> None:
    result = run("calibrate", tiny_folder, "--attention", "--sites")
    assert result.exit_code != 0 and "exclude each other" in result.output
