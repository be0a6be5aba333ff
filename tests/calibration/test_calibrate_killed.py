"""Killed at any moment and started again, a calibration ends with the very files of one that nobody disturbed."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from quick_calibration import files_of, no_networks, quick, stop_when

from dit_accel.calibration import books, judging, kept_recording, shelf
from dit_accel.calibration.front import front_of
from dit_accel.calibration.store import Store

pytest.importorskip("deap")
pytestmark = pytest.mark.usefixtures("without_networks")

SCRIPT = Path(__file__).with_name("quick_calibration.py")
ROOT = Path(__file__).resolve().parents[2]


WRITES = (
    (books, "write_json"),
    (kept_recording, "write_json"),
    (shelf.os, "replace"),  # of plans, and beneath the JSON files
    (Store, "keep"),
    (Store, "drop"),
)


class Killed(BaseException):
    """Nothing in the library may catch it."""


@pytest.fixture(scope="module")
def whole(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted calibration."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "available_perceptual", no_networks)
        quick(pipe, folder)
    return folder


def dies_at(at: int, after: bool) -> Any:
    """Makes writes of which one ends the process: just before the file appears, or just after."""
    count = 0

    def around(plain: Any) -> Any:
        def write(*args: Any) -> Any:
            nonlocal count
            count += 1
            if count == at and not after:
                raise Killed
            result = plain(*args)
            if count == at:
                raise Killed
            return result

        return write

    return around


def test_killed_at_twenty_random_writes_it_finds_the_same(pipe: Any, whole: Path, tmp_path: Path) -> None:
    moments, killed = random.Random(0), 0
    for part in range(100):
        folder = tmp_path / str(part)
        for _ in range(100):
            with pytest.MonkeyPatch.context() as patch:
                death = dies_at(moments.randint(1, 20), moments.random() < 0.5)
                for place, name in WRITES:
                    patch.setattr(place, name, death(getattr(place, name)))
                try:
                    quick(pipe, folder)
                    break
                except Killed:
                    killed += 1
        assert files_of(folder) == files_of(whole)
        if killed >= 20:
            return
    raise AssertionError("it was never killed")


def test_stopped_by_its_time_it_goes_on_as_if_it_had_not_been(pipe: Any, whole: Path, tmp_path: Path) -> None:
    first = quick(pipe, tmp_path, generations=None, budget_s=0.0)
    assert first.generations == 0 and front_of(first.points) == first.front
    again = quick(pipe, tmp_path, generations=None, budget_s=0.0)
    assert again.points == first.points and again.generations == 0
    quick(pipe, tmp_path)
    assert files_of(tmp_path) == files_of(whole)


def test_a_search_that_has_gone_further_is_taken_whole(pipe: Any, whole: Path, tmp_path: Path) -> None:
    found = quick(pipe, tmp_path)
    again = quick(pipe, tmp_path, generations=0)
    assert again.points == found.points and again.generations == found.generations == 1
    assert files_of(tmp_path) == files_of(whole)


def test_stopped_inside_of_a_generation_its_children_are_found_again(pipe: Any, tmp_path: Path) -> None:
    """The second generation is not begun from a recollection of the first, but from its random numbers."""
    longer = quick(pipe, tmp_path / "whole", generations=2)
    stop = stop_when(lambda what, found: found.generations == 1 and len(found.points) >= 13, Killed)
    with pytest.raises(Killed):
        quick(pipe, tmp_path / "parts", generations=2, on_progress=stop)
    assert quick(pipe, tmp_path / "parts", generations=2).points == longer.points
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")


def test_random_numbers_go_on_from_their_text() -> None:
    rng = random.Random(3)
    rng.random()
    again = books.rng_of(books.text_of(rng))
    assert [rng.randrange(100) for _ in range(1000)] == [again.randrange(100) for _ in range(1000)]
    with pytest.raises(ValueError, match="wanted 625 numbers"):
        books.rng_of("3: 1 2 3")


def started(folder: Path) -> "subprocess.Popen[bytes]":
    paths = (ROOT, ROOT / "tests", ROOT / "tests" / "passes", SCRIPT.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder)], env=environment, cwd=folder.parent, stderr=subprocess.DEVNULL
    )


@pytest.mark.slow
def test_processes_that_are_killed(pipe: Any, whole: Path, tmp_path: Path) -> None:
    """For real, twice, each once there is more than before. Another process has other hashes of texts, too."""
    folder, state = tmp_path / "found", tmp_path / "found" / "judged.json"
    size = 0
    for _ in range(2):
        process = started(folder)
        while process.poll() is None and not (state.exists() and state.stat().st_size > size):
            time.sleep(0.002)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        size = state.stat().st_size
    quick(pipe, folder)
    assert files_of(folder) == files_of(whole)
