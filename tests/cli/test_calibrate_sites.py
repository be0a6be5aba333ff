"""``dit-accel calibrate --sites`` and ``--ecad``, as a user runs them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dit_accel.calibration.sites_judge import SiteJudge
from dit_accel.plan.plan import AccelerationPlan

QUICK = ("--steps", "6", "--num-prompts", "2", "--population", "4")


def test_plans_of_calls_and_sites_are_saved(run: Any, tiny_folder: str, tmp_path: Path) -> None:
    pytest.importorskip("deap")
    result = run("calibrate", tiny_folder, "-o", str(tmp_path), "--sites", "--generations", "0", *QUICK, "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    folders = sorted((tmp_path / "sites").glob("*x"))
    assert len(said["front"]) == len(folders) > 1
    left = tmp_path / "sites" / "07-9.99x"  # of a front that there was before
    shutil.copytree(folders[0], left)
    plan = AccelerationPlan.from_pretrained(folders[-1])
    assert plan.conditions.num_steps == 6 and not plan.is_certified
    again = run("calibrate", tiny_folder, "-o", str(tmp_path), "--sites", "--generations", "0", *QUICK)
    assert again.exit_code == 0 and "plain" in again.stdout
    assert sorted((tmp_path / "sites").glob("*x")) == folders


def test_ctrl_c_leaves_the_plans_of_the_front_and_its_exit_status(
    run: Any, tiny_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("deap")
    plain, judged = SiteJudge.__call__, 0

    def call(self: Any, task: Any) -> Any:
        nonlocal judged
        judged += 1
        if judged == 3:
            raise KeyboardInterrupt
        return plain(self, task)

    monkeypatch.setattr(SiteJudge, "__call__", call)
    result = run("calibrate", tiny_folder, "-o", str(tmp_path), "--sites", "--generations", "0", *QUICK, "--json")
    said = json.loads(result.stdout)
    assert result.exit_code == 130 and said["stopped"] and "goes on from here" in result.stderr
    plans = [AccelerationPlan.from_pretrained(each) for each in (tmp_path / "sites").glob("*x")]
    assert len(plans) == len(said["front"]) >= 1


@pytest.mark.parametrize("kind", ["--sites", "--ecad", "--attention"])
def test_what_a_search_would_not_heed_is_refused_by_name(run: Any, kind: str) -> None:
    result = run("calibrate", "nowhere", kind, "--max-lpips", "0", "--name", "mine")
    assert result.exit_code == 2 and "leave out --max-lpips, --name" in " ".join(result.output.split())


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
