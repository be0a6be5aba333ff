"""``dit-accel calibrate``, as a user runs it."""

import json
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from dit_accel import TrajectoryConfig
from dit_accel.calibration.judging import Judge, Verdict
from dit_accel.cli.calibrate import seconds_of
from dit_accel.errors import ConfigError
from dit_accel.plan.plan import AccelerationPlan

QUICK = ("--generations", "0", "--steps", "6", "--num-prompts", "2")


def test_plans_of_the_front_and_the_chosen_one_are_saved(run: Any, tiny_folder: str, tmp_path: Path) -> None:
    pytest.importorskip("deap")
    folder = tmp_path / "found"
    arguments = ("calibrate", tiny_folder, "-o", str(folder), *QUICK)
    result = run(*arguments, "--min-speedup", "2", "--name", "quick", "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["chosen"]["num_steps"] == 6 and len(said["chosen"]["computed"]) <= 3
    plan = AccelerationPlan.from_pretrained(folder / "chosen")
    assert plan.name == "quick" and plan.conditions.num_steps == 6 and not plan.is_certified
    assert len(list(folder.glob("*-of-6"))) == len(said["front"])
    if find_spec("matplotlib"):
        assert (folder / "front.png").is_file()
    again = run(*arguments)
    assert again.exit_code == 0 and "on search prompts" in again.stdout
    nothing = run(*arguments, "--min-psnr", "99", "--min-speedup", "2")
    assert nothing.exit_code != 0 and "no plan that was judged is so faithful" in nothing.output
    assert not (folder / "chosen").exists()  # it was of another limit
    printed = shlex.split(next(line for line in again.stderr.splitlines() if line.startswith("dit-accel certify")))
    assert AccelerationPlan.from_pretrained(printed[-1]).conditions.num_steps == 6
    before = json.loads((folder / "judged.json").read_text())
    assert run(*arguments, "--resume").exit_code == 0 and json.loads((folder / "judged.json").read_text()) == before
    anew = run(*arguments, "--seed", "3", "--no-resume")
    assert anew.exit_code == 0 and "on search prompts" in anew.stdout


def test_times_are_read() -> None:
    assert [seconds_of(text) for text in ("90s", "2m", "0.5h")] == [90, 120, 1800]
    for text in ("", "m", "20", "-1m", "20 minutes"):
        with pytest.raises(ConfigError, match="no time"):
            seconds_of(text)


def interrupted_at(count: int) -> Any:
    """A judge that somebody stops with Ctrl-C."""
    plain, judged = Judge.__call__, 0

    def call(self: Any, steps: Any) -> Any:
        nonlocal judged
        judged += 1
        if judged == count:
            raise KeyboardInterrupt
        return plain(self, steps)

    return call


def test_ctrl_c_keeps_everything_and_says_how_to_go_on(
    run: Any, tiny_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("deap")
    folder = tmp_path / "found"
    arguments = ("calibrate", tiny_folder, "-o", str(folder), *QUICK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Judge, "__call__", interrupted_at(1))
        result = run(*arguments, "--min-psnr", "5")
    assert result.exit_code == 130
    assert "so far: the front is empty" in result.stderr and "nothing was judged yet" in result.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Judge, "__call__", interrupted_at(3))
        result = run(*arguments, "--min-psnr", "5", "--json")
    said = json.loads(result.stdout)
    assert result.exit_code == 130 and said["stopped"] and said["judged"] == 2 and said["front"]
    for point in said["front"]:
        AccelerationPlan.from_pretrained(folder / f"{len(point['computed'])}-of-6")
    assert AccelerationPlan.from_pretrained(folder / "chosen").conditions.num_steps == 6
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Judge, "__call__", interrupted_at(1))
        result = run(*arguments)
    assert result.exit_code == 130
    assert "on search prompts" in result.stdout and "The same command goes on from here" in result.stderr
    assert run(*arguments, "--json").exit_code == 0


def test_skipped_candidates_are_told(
    run: Any, tiny_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("deap")
    plain = Judge.__call__

    def skips_some(self: Any, steps: Any) -> Verdict:
        if len(steps) == 3:
            return Verdict(computed=steps, why="its pictures are not finite")
        return plain(self, steps)

    monkeypatch.setattr(Judge, "__call__", skips_some)
    result = run("calibrate", tiny_folder, "-o", str(tmp_path / "found"), *QUICK)
    assert result.exit_code == 0
    assert "skipped: 2 of 3; the first because its pictures are not finite" in result.stderr


def test_the_search_begins_with_plans_that_are_named(run: Any, tiny_folder: str, tmp_path: Path) -> None:
    pytest.importorskip("deap")
    known = AccelerationPlan(passes=(TrajectoryConfig(computed=(True, True, False, False, False, True)),))
    known.save_pretrained(tmp_path / "known")
    arguments = ("calibrate", tiny_folder, "-o", str(tmp_path / "found"), *QUICK)
    result = run(*arguments, "--plan", "extreme", "--plan", str(tmp_path / "known"), "--json")
    assert result.exit_code == 0, result.output
    judged = json.loads((tmp_path / "found" / "judged.json").read_text())["points"]
    assert [0, 1, 5] in [point["computed"] for point in judged]
    for plan, words in (("balanced", "computes every denoiser call"), ("nowhere/plan", "nowhere/plan")):
        refused = run(*arguments, "--plan", plan)
        assert refused.exit_code != 0 and words in " ".join(refused.output.split())
    refused = run(*arguments, "--plan", "extreme", "--ecad")
    assert refused.exit_code != 0 and "leave out --plan" in refused.output
