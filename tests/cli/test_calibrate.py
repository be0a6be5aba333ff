"""``dit-accel calibrate``, as a user runs it."""

import json
from pathlib import Path
from typing import Any

import pytest

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
    again = run(*arguments)
    assert again.exit_code == 0 and "on search prompts" in again.stdout
    nothing = run(*arguments, "--min-psnr", "99", "--min-speedup", "2")
    assert nothing.exit_code != 0 and "no plan of the front is so faithful" in nothing.output


def test_times_are_read() -> None:
    assert [seconds_of(text) for text in ("90s", "2m", "0.5h")] == [90, 120, 1800]
    for text in ("", "m", "20", "-1m", "20 minutes"):
        with pytest.raises(ConfigError, match="no time"):
            seconds_of(text)
