"""``dit-accel calibrate --attention``: masks and orders for attention, joined with another plan if asked."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_accel.cli.calibrate_output import or_stopped
from dit_accel.cli.console import err, out, print_json, tell
from dit_accel.errors import ConfigError

if TYPE_CHECKING:
    from dit_accel.calibration.attention_search import OnAttention
    from dit_accel.pipelines.generation import GenerationSettings
    from dit_accel.plan.plan import AccelerationPlan

STAGES = {
    "record": "recording attention in a plain run",
    "gains": "measuring what errors of each step are worth",
    "layers": "measuring what each layer can spare",
    "judge": "judging on search prompts",
}


def run_attention(
    pipe: Any,
    folder: Path,
    *,
    model: str,
    settings: "GenerationSettings",
    num_prompts: int | None,
    densities: Sequence[float] | None,
    masses: Sequence[float] | None,
    block: int,
    parts: int,
    dense_steps_frac: float,
    joined: "Sequence[AccelerationPlan]",
    as_json: bool,
) -> None:
    """Find the plans, save each in a folder of its own, and show how near they stay to the plain run.

    Args:
        pipe: The pipeline.
        folder: For plans and progress.
        model: What it was loaded from.
        settings: Of the runs.
        num_prompts: Search prompts; ``None``: 4.
        densities: Shares of the blocks to compute; neither these nor ``masses``: 0.5 and 0.3.
        masses: Shares of each head's weight to keep.
        block: Tokens in a block.
        parts: Parts of a run with masks of their own.
        dense_steps_frac: Share of the steps that are dense.
        joined: At most one plan to put the masks into.
        as_json: Print data instead of a table.
    """
    from rich.table import Table

    from dit_accel.calibration.attention_search import NUM_PROMPTS, calibrate_attention

    if len(joined) > 1:
        raise ConfigError(f"masks are put into one plan, and there are {len(joined)}: give --plan once")
    wanted = (0.5, 0.3) if not densities and not masses else tuple(densities or ())
    with or_stopped(folder / "attention"), _bar() as show:
        found = calibrate_attention(
            pipe,
            folder / "attention",
            model=model,
            settings=settings,
            num_prompts=num_prompts or NUM_PROMPTS,
            densities=wanted,
            masses=tuple(masses or ()),
            block=block,
            parts=parts,
            dense_steps_frac=dense_steps_frac,
            joined=joined[0] if joined else None,
            on_progress=show,
        )
    places = [folder / "attention" / plan.name for plan in found.plans]
    if as_json:
        points = [{"folder": str(place), **point.to_dict()} for place, point in zip(places, found.points, strict=True)]
        print_json(json.dumps({"folder": str(folder / "attention"), "points": points}))
        return
    table = Table("plan", "density", "not computed", "PSNR", "worst", "ST-LPIPS", title="on search prompts")
    for plan, point in zip(found.plans, found.points, strict=True):
        spared = "" if point.not_computed_frac is None else f"{point.not_computed_frac:.0%}"
        quality = (f"{point.psnr_db:.1f} dB", f"{point.worst_db:.1f} dB")
        distance = "" if point.st_lpips is None else f"{point.st_lpips:.4f}"
        table.add_row(plan.name, f"{point.density:.2f}", spared, *quality, distance)
    out().print(table)
    tell("they were judged on the prompts that they were calibrated with; for others:")
    tell(f"dit-accel certify {model} --plan {places[0]}")


@contextmanager
def _bar() -> "Iterator[OnAttention]":
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err(), transient=True) as progress:
        task = progress.add_task(STAGES["record"], total=1.0)

        def show(what: str, done: float) -> None:
            progress.update(task, description=STAGES[what], completed=done)

        yield show
