"""What the process of a search makes of what was found, without a pipeline: what it chooses, certifies, and says."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dit_accel.app.search_process import SearchProcess
from dit_accel.app.searches import REQUEST_FILE, Search, Status
from dit_accel.calibration.front import Point, front_of
from dit_accel.evaluation.certify import certify as certifying
from dit_accel.evaluation.progress_files import write_json
from dit_accel.passes.trajectory.apply import TrajectoryConfig
from dit_accel.plan.plan import AccelerationPlan


def plan_of(computed: tuple[int, ...], num_steps: int = 8) -> AccelerationPlan:
    config = TrajectoryConfig(computed=tuple(step in computed for step in range(num_steps)))
    return AccelerationPlan(name=f"trajectory-{len(computed)}-of-{num_steps}", passes=(config,))


@dataclass
class Found:
    """A calibration, as far as the process looks at it."""

    points: tuple[Point, ...]

    @property
    def front(self) -> tuple[Point, ...]:
        return front_of(self.points)

    def plan(self, point: Point) -> AccelerationPlan:
        return plan_of(point.computed)


def point(count: int, psnr_db: float) -> Point:
    return Point(computed=tuple(range(count)), num_steps=8, psnr_db=psnr_db, worst_db=psnr_db - 4)


@pytest.fixture
def certified(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders that plans were certified in."""
    folders: list[Path] = []

    def certify(pipe: Any, plan: AccelerationPlan, folder: Path, **_: Any) -> None:
        plan.save_pretrained(folder)
        folders.append(folder)

    monkeypatch.setattr(certifying, "certify", certify)
    return folders


def process(folder: Path, **asked: Any) -> SearchProcess:
    request = {"model": "emoji-flux", "name": "emoji-flux", "budget_s": 1.0, "certify": True, **asked}
    write_json(folder / REQUEST_FILE, request)
    return SearchProcess(Search(folder))


def test_a_better_plan_of_the_same_name_is_certified_too(tmp_path: Path, certified: list[Path]) -> None:
    for computed in ((0, 3, 6), (0, 2, 5), (0, 2, 5)):
        process(tmp_path)._certify(None, plan_of(computed))
    assert len(certified) == 2 and certified[0] != certified[1]
    assert all(folder.name.startswith("certified-trajectory-3-of-8-") for folder in certified)


FRONT = (point(2, 20.0), point(3, 25.0), point(4, 30.0), point(7, 50.0))


@pytest.mark.parametrize(
    ("points", "asked", "name"),
    [
        (FRONT, {}, "trajectory-4-of-8"),  # not the slowest, which is the most faithful
        (FRONT[3:], {}, "trajectory-7-of-8"),
        (FRONT, {"min_psnr": 24.0}, "trajectory-3-of-8"),
        (FRONT, {"min_speedup": 4.0}, "trajectory-2-of-8"),
    ],
)
def test_what_is_certified(
    tmp_path: Path, certified: list[Path], monkeypatch: pytest.MonkeyPatch, points: Any, asked: Any, name: str
) -> None:
    status = run(process(tmp_path, **asked), points, monkeypatch)
    assert [folder.name.rpartition("-")[0] for folder in certified] == [f"certified-{name}"]
    assert AccelerationPlan.from_pretrained(tmp_path / "chosen").name == name
    assert status.state == "done" and status.words.endswith(f"; {name} is chosen")


def test_where_nothing_is_within_the_limits_the_end_says_so(
    tmp_path: Path, certified: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_of((0,)).save_pretrained(tmp_path / "chosen")  # by an earlier run, with other limits
    status = run(process(tmp_path, min_psnr=60.0), FRONT, monkeypatch)
    assert status.state == "done" and "4 plans judged" in status.words
    assert "none is chosen: no plan that was judged is so faithful; the best has 50.0 dB" in status.words
    assert certified == [] and not (tmp_path / "chosen").exists()


def run(made: SearchProcess, points: tuple[Point, ...], monkeypatch: pytest.MonkeyPatch) -> Status:
    """The process from its beginning to its end, with these points found; returns its last status."""
    monkeypatch.setattr(SearchProcess, "_pipe", lambda self: None)
    monkeypatch.setattr(SearchProcess, "_calibrate", lambda self, pipe: setattr(self, "found", Found(points)))
    made.run()
    return made.search.status()
