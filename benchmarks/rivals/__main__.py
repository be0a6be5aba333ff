"""Measure the rivals, or turn reports into a page. See the package's docstring."""

import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated

HERE = Path(__file__).resolve()
sys.path[0] = str(HERE.parents[1])  # instead of this folder, whose files are no modules of their own

import torch  # noqa: E402
import typer  # noqa: E402
from diffusers.utils import logging as diffusers_logging  # noqa: E402

from dit_accel.embedded import list_embedded  # noqa: E402
from dit_accel.errors import DitAccelError  # noqa: E402
from dit_accel.evaluation.reports.environment import collect_environment, command_line  # noqa: E402
from rivals.arena import OWN, Arena, ArenaOptions, PipelineArena  # noqa: E402
from rivals.assemble import assemble  # noqa: E402
from rivals.measure import Limits, Measurement  # noqa: E402
from rivals.page import write_page  # noqa: E402
from rivals.registry import select_rivals  # noqa: E402
from rivals.scheduled import Ours  # noqa: E402
from rivals.shapes import ShapeArena  # noqa: E402
from rivals.store import Store  # noqa: E402

RESULTS = HERE.parents[1] / "results"
DOCS = HERE.parents[2] / "docs"
QUICK_IMAGES, QUICK_ROUNDS = 16, 3

app = typer.Typer(add_completion=False, no_args_is_help=False, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def measure(
    context: typer.Context,
    models: Annotated[str, typer.Option(help="Embedded names or folders, by comma; empty: all embedded.")] = "",
    shapes: Annotated[str, typer.Option(help="Random weights instead, by comma, e.g. pixart-xl-256,flux-1024.")] = "",
    rivals: Annotated[str, typer.Option(help="Names by comma; empty: all.")] = "",
    steps: Annotated[str, typer.Option(help="Steps of the plain runs, by comma.")] = "20,28,50",
    samplers: Annotated[str, typer.Option(help="own, ddim, dpm++, euler, unipc, by comma.")] = OWN,
    images: Annotated[int, typer.Option(help="Images or videos of each contender.", min=1)] = 200,
    batch_size: Annotated[int, typer.Option(help="A call.", min=1)] = 4,
    rounds: Annotated[int, typer.Option(help="Timed runs of each contender.", min=1)] = 10,
    budget_minutes: Annotated[float, typer.Option(help="For everything, shared evenly; 0: no limit.")] = 0.0,
    quick: Annotated[bool, typer.Option(help="A look: 16 images, 3 rounds, half of the sweeps.")] = False,
    plans: Annotated[Path | None, typer.Option(help="Folder of plans of ours to measure beside the presets.")] = None,
    device: Annotated[str, typer.Option(help="Torch device.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    threads: Annotated[int, typer.Option(help="Torch threads; 0 leaves torch's choice.")] = 0,
    work: Annotated[Path, typer.Option(help="Where results are kept until the report.")] = Path("outputs/rivals"),
    output: Annotated[Path, typer.Option(help="Folder of the reports.")] = RESULTS,
) -> None:
    """Measure all rivals in one process. Run nothing beside it; stop and start it as you like."""
    if context.invoked_subcommand is not None:
        return
    if threads:
        torch.set_num_threads(threads)
    diffusers_logging.set_verbosity_error()
    if quick:
        images, rounds = min(images, QUICK_IMAGES), min(rounds, QUICK_ROUNDS)
    options = ArenaOptions(images=images, batch_size=batch_size, num_timed=batch_size, device=device, dtype=dtype)
    wanted = [
        (name, sampler, count) for name in _names(models) for sampler in _list(samplers) for count in _list(steps)
    ]
    if shapes:
        wanted = [(name, "", count) for name in _list(shapes) for count in _list(steps)]
    end = time.monotonic() + budget_minutes * 60
    try:
        chosen = select_rivals(_list(rivals))
        for rival in chosen:
            if isinstance(rival, Ours):
                rival.plans = plans
        for index, (name, sampler, count) in enumerate(wanted):
            left = max(0.0, end - time.monotonic()) / (len(wanted) - index)
            deadline = time.monotonic() + left if budget_minutes else None
            try:
                arena: Arena = _arena(name, sampler, int(count), options)
            except DitAccelError as error:
                _say(f"{name}, {sampler}, {count} steps: left out: {error}")
                continue
            key = {"arena": arena.label, "images": images, "batch_size": batch_size, "dtype": dtype, "device": device}
            key |= {"quick": quick, "threads": torch.get_num_threads(), "packages": collect_environment().packages}
            store = Store(work / arena.label, key)
            limits = Limits(rounds=rounds, deadline=deadline, quick=quick)
            measurement = Measurement(arena, chosen, store, limits, say=_say)
            entries = measurement.run()
            report = assemble(measurement, entries, ("python", "benchmarks/rivals", *command_line()[1:]))
            _say(f"report: {report.save(output / f'rivals-{arena.label}.json')}")
    except DitAccelError as error:
        raise SystemExit(f"error: {error}") from error


@app.command()
def page(
    reports: Annotated[list[Path] | None, typer.Argument(help="Reports; none: all in benchmarks/results.")] = None,
    output: Annotated[Path, typer.Option(help="Markdown file; plots are put beside it.")] = DOCS / "rivals.md",
) -> None:
    """Write the page and its plots from reports."""
    chosen = reports or sorted(RESULTS.glob("rivals-*.json"))
    if not chosen:
        raise SystemExit("error: there is no report yet; measure first")
    try:
        typer.echo(f"page: {write_page(chosen, output)}")
    except DitAccelError as error:
        raise SystemExit(f"error: {error}") from error


def _arena(name: str, sampler: str, steps: int, options: ArenaOptions) -> Arena:
    return PipelineArena(name, sampler, steps, options) if sampler else ShapeArena(name, steps, options)


def _names(models: str) -> list[str]:
    return _list(models) or list_embedded()


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _say(line: str) -> None:
    typer.echo(f"{datetime.now():%H:%M:%S} {line}")


if __name__ == "__main__":
    app()
