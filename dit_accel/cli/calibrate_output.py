"""What ``dit-accel calibrate`` says at its end."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from dit_accel.cli.console import EXIT_STOPPED, out, tell
from dit_accel.errors import ConfigError

if TYPE_CHECKING:
    from dit_accel.calibration.calibrate import Calibration
    from dit_accel.calibration.front import Point


def choose_point(points: "Sequence[Point]", limits: dict[str, Any], stopped: bool = False, quiet: bool = False) -> Any:
    """The plan that was asked for; ``None``: none was, or it was stopped before there was one."""
    from dit_accel.calibration.front import pick

    if all(limit is None for limit in limits.values()):
        return None
    try:
        return pick(points, **limits)
    except ConfigError as error:
        if not stopped and not quiet:
            raise
        if not quiet:
            tell(f"so far: {error}")
        return None


@contextmanager
def or_stopped(folder: Path) -> Iterator[None]:
    """Says after Ctrl-C how to go on, and ends with its exit status."""
    try:
        yield
    except KeyboardInterrupt:
        tell(f"stopped; all of it is kept in {folder}. The same command goes on from here.")
        raise typer.Exit(EXIT_STOPPED) from None


def say(found: "Calibration", chosen: Any, folder: Path, model: str, stopped: bool) -> None:
    """The front, what was skipped, and what to do next.

    Args:
        found: The calibration.
        chosen: The point that the limits chose, if any.
        folder: Of its plans.
        model: What was asked for.
        stopped: Whether somebody stopped it.
    """
    from dit_accel.calibration.calibrate import FIRST_SPEEDUP
    from dit_accel.calibration.shelf import place_of

    if found.points:
        out().print(_table(found, chosen))
    if found.skipped:
        why = next(iter(found.skipped.values()))
        tell(f"skipped: {len(found.skipped)} of {len(found.points) + len(found.skipped)}; the first because {why}")
    if stopped:
        kept = f"all of it is kept in {folder}" if found.points else "nothing was judged yet"
        tell(f"stopped; {kept}. The same command goes on from here.")
    if found.points:
        twofold = min(found.front, key=lambda point: abs(point.saved - FIRST_SPEEDUP))
        plan = folder / "chosen" if chosen else place_of(folder, twofold)
        tell(f"plans: {folder}. They were judged on the prompts that they were fitted to; for others:")
        tell(shlex.join(["dit-accel", "certify", model, "--plan", str(plan)]))


def _table(found: "Calibration", chosen: Any) -> Any:
    from rich.table import Table

    from dit_accel.calibration.calls import words

    table = Table("computed", "evaluations saved", "PSNR", "worst tenth", "ST-LPIPS", title="on search prompts")
    beside = [chosen] if chosen is not None and chosen not in found.front else []
    for point in (*found.front, *beside):
        mark = " *" if point == chosen else ""
        distance = "" if point.st_lpips is None else f"{point.st_lpips:.4f}"
        count = f"{words(point.computed)} of {point.num_steps}{mark}"
        table.add_row(count, f"{point.saved:.2f}x", f"{point.psnr_db:.1f} dB", f"{point.worst_db:.1f} dB", distance)
    return table
