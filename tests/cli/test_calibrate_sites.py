"""``dit-accel calibrate --sites`` and ``--ecad``, as a user runs them."""

import json
from pathlib import Path
from typing import Any

import pytest

from dit_accel.plan.plan import AccelerationPlan

QUICK = ("--steps", "6", "--num-prompts", "2", "--population", "4")


def test_plans_of_calls_and_sites_are_saved(run: Any, tiny_folder: str, tmp_path: Path) -> None:
    pytest.importorskip("deap")
    result = run("calibrate", tiny_folder, "-o", str(tmp_path), "--sites", "--generations", "0", *QUICK, "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    folders = sorted((tmp_path / "sites").glob("*x"))
    assert len(said["front"]) == len(folders) > 1
    plan = AccelerationPlan.from_pretrained(folders[-1])
    assert plan.conditions.num_steps == 6 and not plan.is_certified
    again = run("calibrate", tiny_folder, "-o", str(tmp_path), "--sites", "--generations", "0", *QUICK)
    assert again.exit_code == 0 and "plain" in again.stdout


def test_the_papers_setting_is_one_flag(run: Any, tiny_folder: str, tmp_path: Path) -> None:
    pytest.importorskip("deap")
    pytest.importorskip("stlpips_pytorch")
    small = ("--generations", "1", "--seeds-each", "1", "--judge", "st_lpips")
    result = run("calibrate", tiny_folder, "-o", str(tmp_path), "--ecad", *small, *QUICK, "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["judge"] == "st_lpips" and said["front"][-1]["score"] == pytest.approx(1.0, abs=1e-4)
    plans = [AccelerationPlan.from_pretrained(each) for each in sorted((tmp_path / "ecad").glob("*-macs"))]
    assert plans and all([config.type_name for config in plan.passes] == ["static_cache"] for plan in plans)
