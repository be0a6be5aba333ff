"""The picture of the front, and when a search will be done."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dit_accel.calibration import pace as pace_module
from dit_accel.calibration import picture as picture_module
from dit_accel.calibration.calibrate import Calibration
from dit_accel.calibration.front import Point
from dit_accel.calibration.pace import Pace
from dit_accel.calibration.picture import PICTURE_FILE, RED, Picture, draw_front
from dit_accel.cli.search_progress import duration, in_words

POINTS = [
    Point(computed=tuple(range(count)), num_steps=20, psnr_db=20.0 + count, worst_db=15.0 + count)
    for count in (4, 6, 10, 16)
]


class Clock:
    """Time that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (pace_module, picture_module):
        monkeypatch.setattr(module, "time", clock)
    return clock


def pixels_of(path: Path, colour: str) -> int:
    wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return int((np.asarray(Image.open(path).convert("RGB")) == wanted).all(-1).sum())


def test_the_chosen_plan_is_marked(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw_front(POINTS, tmp_path / "plain.png", title="tiny")
    draw_front(POINTS, tmp_path / "chosen.png", title="tiny", chosen=POINTS[1])
    assert Image.open(tmp_path / "plain.png").width > 400
    assert pixels_of(tmp_path / "plain.png", RED) == 0 < 20 < pixels_of(tmp_path / "chosen.png", RED)


def test_a_picture_is_drawn_again_when_it_is_old_or_has_to_be(tmp_path: Path, clock: Clock) -> None:
    pytest.importorskip("matplotlib")
    told: list[str] = []
    picture = Picture(tmp_path, title="tiny", choose=lambda front: None, tell=told.append)
    path = tmp_path / PICTURE_FILE
    picture.refresh([])
    assert not path.exists()
    for seconds, now, drawn in ((0, False, True), (3, False, False), (1, True, True), (6, False, True)):
        clock.now += seconds
        picture.refresh(POINTS, now=now)
        assert path.exists() == drawn
        path.unlink(missing_ok=True)
    assert not told


def test_without_matplotlib_it_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    told: list[str] = []
    picture = Picture(tmp_path, title="tiny", choose=lambda front: None, tell=told.append)
    for _ in range(3):
        picture.refresh(POINTS, now=True)
    assert len(told) == 1 and "pip install 'dit-accel[bench]'" in told[0]
    assert not (tmp_path / PICTURE_FILE).exists()


def after(pace: Pace, clock: Clock, expected: int, judged: int, each_s: float) -> Pace:
    pace.expect(expected)
    for _ in range(judged):
        clock.now += each_s
        pace.judged()
    return pace


def test_what_is_left_by_time(clock: Clock) -> None:
    pace = Pace(100.0, None)
    assert pace.left_s(0) == 100.0
    after(pace, clock, 10, 2, each_s=20.0)
    assert pace.left_s(0) == 8 * 20.0 and not pace.is_over  # the first plans are judged whatever the time
    after(pace, clock, 4, 2, each_s=20.0)
    assert pace.left_s(1) == 2 * 20.0
    clock.now += 100.0
    assert pace.is_over


def test_what_is_left_by_generations(clock: Clock) -> None:
    pace = Pace(100.0, 3)
    assert pace.left_s(0) == float("inf")
    after(pace, clock, 5, 1, each_s=2.0)
    assert pace.left_s(0) == 2.0 * (4 + 3 * 8)
    after(pace, clock, 8, 8, each_s=2.0)
    assert pace.left_s(1) == 2.0 * 2 * 8
    assert after(pace, clock, 8, 8, each_s=2.0).left_s(3) == 0.0


@pytest.mark.parametrize(
    ("what", "left_s", "found", "words"),
    [
        (
            "generation",
            754.0,
            Calibration(points=POINTS, skipped={(0,): "why"}, generations=3, hypervolume=31.204),
            "generation 3: 4 judged, 1 skipped, front of 4, hypervolume 31.20, about 13 min left",
        ),
        ("judge", float("inf"), Calibration(points=POINTS[:1]), "generation 0: 1 judged, front of 1"),
        ("guard", 0.0, Calibration(points=POINTS), "measuring the guards of 4 plans"),
    ],
)
def test_what_is_said(what: str, left_s: float, found: Any, words: str) -> None:
    assert in_words(what, left_s, found) == words
    assert [duration(seconds) for seconds in (12.4, 89, 90, 3600, 7200)] == [
        "12 s",
        "89 s",
        "2 min",
        "60 min",
        "2.0 h",
    ]
