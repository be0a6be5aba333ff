"""Where a search has nothing more to do, or nothing to begin with; and ranges of guidance that come and go."""

import math
from pathlib import Path
from typing import Any

import pytest
from quick_calibration import files_of, quick, quick_pipeline

from dit_accel.calibration import ecad, sites
from dit_accel.errors import ConfigError
from dit_accel.pipelines.generation import GenerationSettings

pytest.importorskip("deap")
pytestmark = pytest.mark.usefixtures("without_networks")

OTHERS = {"sites": sites.calibrate_sites, "ecad": ecad.calibrate_ecad}


def test_a_search_ends_when_everything_was_judged(pipe: Any, tmp_path: Path) -> None:
    short = GenerationSettings(num_inference_steps=3)
    found = quick(pipe, tmp_path, settings=short, generations=1000)
    assert len(found.points) == 4 and found.generations < 5


def test_one_step_has_none_to_leave_out(pipe: Any, tmp_path: Path) -> None:
    one = GenerationSettings(num_inference_steps=1)
    with pytest.raises(ConfigError, match="ask for two steps or more"):
        quick(pipe, tmp_path / "trajectories", settings=one)
    for name, search in OTHERS.items():
        with pytest.raises(ConfigError, match="ask for two steps or more"):
            search(pipe, tmp_path / name, model="tiny", settings=one, num_prompts=2)


def test_a_range_of_guidance_comes_and_goes(pipe: Any, tmp_path: Path) -> None:
    plain, ranged = quick(pipe, tmp_path / "plain", generations=0), tmp_path / "ranged"
    found = quick(pipe, ranged, generations=0, guidance_values=(2.0,))
    config: Any = found.plan(found.front[0]).passes[0]
    assert config.guidance == (2.0, 4.5) and found.points == plain.points
    quick(pipe, ranged, generations=0)
    assert files_of(ranged) == files_of(tmp_path / "plain")
    with pytest.raises(ConfigError, match="give another scale"):
        quick(pipe, tmp_path / "early", generations=0, guidance_values=(4.5,))
    assert not list((tmp_path / "early").glob("*-of-5"))


def test_a_plan_off_the_front_is_finished_too(pipe: Any, tmp_path: Path) -> None:
    found = quick(pipe, tmp_path)
    beside = next(point for point in found.points if point not in found.front)
    before = files_of(tmp_path)
    config: Any = found.finished(beside).passes[0]
    assert config.guard and files_of(tmp_path) == before


@pytest.mark.parametrize("name", OTHERS)
def test_a_damaged_file_of_judgements_is_left_alone(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(ecad, "judge_named", lambda *each: ("none", None))
    (tmp_path / "judged.json").write_text('{"points": [')
    with pytest.raises(ConfigError, match=r"is damaged.*Nothing was deleted"):
        OTHERS[name](pipe, tmp_path, model="tiny", num_prompts=2)
    assert (tmp_path / "judged.json").read_text() == '{"points": ['


def test_of_scores_that_are_not_finite_ecad_skips_the_genome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0

    def score(images: Any, texts: Any, places: Any) -> list[float]:
        nonlocal count
        count += 1
        return [math.nan if count == 2 else float(images.mean())] * len(texts)

    monkeypatch.setattr(ecad, "judge_named", lambda *each: ("mean", score))
    settings = GenerationSettings(num_inference_steps=4)
    more: Any = {"model": "tiny", "settings": settings, "num_prompts": 1, "seeds_each": 1, "population": 6}
    found = ecad.calibrate_ecad(quick_pipeline(), tmp_path, generations=1, **more)
    assert len(found.skipped) == 1 and found.skipped[0] not in {point.bits for point in found.points}
    assert all(math.isfinite(point.score) for point in found.front)
    again = ecad.calibrate_ecad(quick_pipeline(), tmp_path, generations=1, **more)
    assert again.points == found.points and again.skipped == found.skipped
