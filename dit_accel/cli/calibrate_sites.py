"""The two searches over sites behind ``dit-accel calibrate``: ``--sites``, and ECAD's own setting by ``--ecad``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_accel.cli.console import out, print_json, tell

if TYPE_CHECKING:
    from dit_accel.pipelines.generation import GenerationSettings


def run_sites(pipe: Any, folder: Path, *, as_json: bool, **more: Any) -> None:
    """Search calls and sites together, save the plans of the front, and show them beside those that save calls only.

    Args:
        pipe: The pipeline.
        folder: For plans and progress.
        as_json: Print data instead of a table.
        more: Of :func:`dit_accel.calibration.sites.calibrate_sites`.
    """
    from rich.table import Table

    from dit_accel.calibration.sites import calibrate_sites

    found = calibrate_sites(pipe, folder / "sites", **more, on_progress=_say)
    for place, point in enumerate(found.front):
        found.plan(point).save_pretrained(folder / "sites" / f"{place:02d}-{point.speedup:.2f}x")
    if as_json:
        points = [point.to_dict() for point in found.front]
        print_json(json.dumps({"folder": str(folder / "sites"), "front": points}))
        return
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
    tell(f"plans: {folder / 'sites'}. They were judged on the prompts that they were fitted to.")


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
    from rich.table import Table

    from dit_accel.calibration.ecad import calibrate_ecad

    found = calibrate_ecad(pipe, folder / "ecad", settings=settings, weights=weights, **more, on_progress=_say)
    plain = found.points[0].macs
    for place, point in enumerate(found.front):
        found.plan(point).save_pretrained(folder / "ecad" / f"{place:02d}-{plain / point.macs:.2f}x-macs")
    if as_json:
        points = [{"score": point.score, "linear_macs": point.macs} for point in found.front]
        print_json(json.dumps({"folder": str(folder / "ecad"), "judge": found.judge, "front": points}))
        return
    table = Table("linear GMACs", "of the uncached run's", found.judge, title=f"{len(found.points)} judged")
    for point in found.front:
        table.add_row(f"{point.macs / 1e9:.2f}", f"{point.macs / plain:.0%}", f"{point.score:.4f}")
    out().print(table)
    tell(f"plans: {folder / 'ecad'}")


def _say(what: str, left_s: float, found: Any) -> None:
    if what == "generation":
        volume = "" if found.hypervolume is None else f", hypervolume {found.hypervolume:.3f}"
        tell(f"generation {found.generations}: {len(found.points)} judged, front of {len(found.front)}{volume}")
    elif what != "judge":
        tell(f"{what} done, {left_s:.0f} s left")
