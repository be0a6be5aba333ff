"""What a search says of itself while it goes on."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dit_accel.cli.console import err, tell

if TYPE_CHECKING:
    from dit_accel.calibration.calibrate import Calibration, OnProgress

PHASES = {"record": "measuring what errors grow to", "gains": "choosing steps"}  # what begins when this is done


@contextmanager
def search_bar(name: str) -> "Iterator[OnProgress]":
    """A bar on a terminal; where there is none, as in a cluster's log, a line for each generation."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = err()
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(f"{name}: recording the plain runs", total=None)

        def show(what: str, left_s: float, calibration: "Calibration") -> None:
            words = PHASES.get(what) or in_words(what, left_s, calibration)
            progress.update(task, description=words)
            if what == "generation" and not console.is_terminal:
                tell(words)

        yield show


def in_words(what: str, left_s: float, calibration: "Calibration") -> str:
    """Where the search stands, in a line."""
    if what == "guard":
        return f"measuring the guards of {len(calibration.front)} plans"
    said = [f"{len(calibration.points)} judged"]
    if calibration.skipped:
        said.append(f"{len(calibration.skipped)} skipped")
    said.append(f"front of {len(calibration.front)}")
    if calibration.hypervolume is not None:
        said.append(f"hypervolume {calibration.hypervolume:.2f}")
    if math.isfinite(left_s):
        said.append(f"about {duration(left_s)} left")
    return f"generation {calibration.generations}: {', '.join(said)}"


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
