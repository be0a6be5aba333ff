"""The two searches over sites behind ``dit-accel calibrate``: ``--sites``, and ECAD's own setting by ``--ecad``."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from dit_accel.cli.console import EXIT_STOPPED, out, print_json, tell

if TYPE_CHECKING:
    from dit_accel.calibration.ecad import EcadCalibration
    from dit_accel.calibration.sites import SitesCalibration
    from dit_accel.pipelines.generation import GenerationSettings

NAME = re.compile(r"\d\d-[\d.]+x(-macs)?")  # of the folders of plans: the place on the front, and the speed


def run_sites(pipe: Any, folder: Path, *, as_json: bool, **more: Any) -> None:
    """Search calls and sites together, save the plans of the front, and show them beside those that save calls only.

    Args:
        pipe: The pipeline.
        folder: For plans and progress.
        as_json: Print data instead of a table.
        more: Of :func:`dit_accel.calibration.sites.calibrate_sites`.
    """
    from dit_accel.calibration.sites import SitesCalibration, calibrate_sites

    place = folder / "sites"
    found, stopped = _searched(partial(calibrate_sites, pipe, place, **more), SitesCalibration())
    names = [f"{number:02d}-{point.speedup:.2f}x" for number, point in enumerate(found.front)]
    _save(found, place, names, stopped)
    if as_json:
        points = [point.to_dict() for point in found.front]
        print_json(json.dumps({"folder": str(place), "front": points, "stopped": stopped}))
    else:
        _show_sites(found, place)
    _end(place, stopped)


def _show_sites(found: "SitesCalibration", place: Path) -> None:
    from rich.table import Table

    names = {genome: name for name, genome in found.seeds.items()}
    table = Table("speed-up, foretold", "computed", "sites reused", "PSNR", "worst tenth", "ST-LPIPS", "seed")
    for point in found.front:
        distance = "" if point.st_lpips is None else f"{point.st_lpips:.4f}"
        count = f"{len(point.genome.computed)} of {point.genome.num_steps}"
        quality = (f"{point.psnr_db:.1f} dB", f"{point.worst_db:.1f} dB", distance)
        inside = "yes" if point.genome.reused else ""
        table.add_row(f"{point.speedup:.2f}x", count, inside, *quality, names.get(point.genome, ""))
    out().print(table)
    for point in found.skipped:
        tell(f"skipped: {len(point.genome.computed)} of {point.genome.num_steps} computed, for {point.fault}")
    tell(f"plans: {place}. They were judged on the prompts that they were fitted to.")


def run_ecad(
    pipe: Any, folder: Path, *, as_json: bool, settings: "GenerationSettings", weights: Path, **more: Any
) -> None:
    """Run ECAD's search, save the plans of the front, and show them.

    Args:
        pipe: The pipeline.
        folder: For plans and progress.
        as_json: Print data instead of a table.
        settings: Of the runs.
        weights: Of the judges.
        more: Of :func:`dit_accel.calibration.ecad.calibrate_ecad`.
    """
    from dit_accel.calibration.ecad import EcadCalibration, calibrate_ecad

    place = folder / "ecad"
    search = partial(calibrate_ecad, pipe, place, settings=settings, weights=weights, **more)
    found, stopped = _searched(search, EcadCalibration())
    plain = found.points[0].macs if found.points else 1
    names = [f"{number:02d}-{plain / point.macs:.2f}x-macs" for number, point in enumerate(found.front)]
    _save(found, place, names, stopped)
    if as_json:
        points = [{"score": point.score, "linear_macs": point.macs} for point in found.front]
        data = {"folder": str(place), "judge": found.judge, "front": points, "stopped": stopped}
        print_json(json.dumps({**data, "skipped": len(found.skipped)}))
    else:
        _show_ecad(found, place, plain)
    _end(place, stopped)


def _show_ecad(found: "EcadCalibration", place: Path, plain: int) -> None:
    from rich.table import Table

    table = Table("linear GMACs", "of the uncached run's", found.judge, title=f"{len(found.points)} judged")
    for point in found.front:
        table.add_row(f"{point.macs / 1e9:.2f}", f"{point.macs / plain:.0%}", f"{point.score:.4f}")
    out().print(table)
    if found.skipped:
        tell(f"skipped: {len(found.skipped)}, whose scores are not finite (NaN or infinity)")
    tell(f"plans: {place}")


def _searched(search: Callable[..., Any], nothing: Any) -> tuple[Any, bool]:
    """What a search has found, and whether somebody stopped it with Ctrl-C."""
    found = nothing

    def heard(what: str, left_s: float, calibration: Any) -> None:
        nonlocal found
        found = calibration
        _say(what, left_s, calibration)

    try:
        return search(on_progress=heard), False
    except KeyboardInterrupt:
        return found, True


def _save(found: Any, folder: Path, names: list[str], stopped: bool) -> None:
    """Put the plans of the front on disk, and take away those of an earlier one."""
    from dit_accel.calibration.shelf import put, tidy_places

    if not names:
        return
    if stopped:
        tell(f"saving {len(names)} plans of the front; Ctrl-C again leaves them out")
    try:
        for name, point in zip(names, found.front, strict=True):
            put(found.plan(point), folder / name)
        tidy_places(folder, [folder / name for name in names], NAME)
    except KeyboardInterrupt:
        if not stopped:
            raise


def _end(folder: Path, stopped: bool) -> None:
    if stopped:
        tell(f"stopped; what was judged is kept in {folder}. The same command goes on from here.")
        raise typer.Exit(EXIT_STOPPED)


def _say(what: str, left_s: float, found: Any) -> None:
    if what == "generation":
        volume = "" if found.hypervolume is None else f", hypervolume {found.hypervolume:.3f}"
        tell(f"generation {found.generations}: {len(found.points)} judged, front of {len(found.front)}{volume}")
    elif what != "judge":
        tell(f"{what} done, {left_s:.0f} s left")
