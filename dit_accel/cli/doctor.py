"""``dit-accel doctor``: what was found in a pipeline, and which passes can act on it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dit_accel.cli import options
from dit_accel.cli.console import EXIT_FAILED, out, print_json, tell
from dit_accel.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from dit_accel.doctor.report import DenoiserReport, DoctorReport
    from dit_accel.doctor.scheduler_facts import SchedulerFacts

_GUIDANCE = {
    "batched": "prompt and negative prompt in one batch of two",
    "two_calls": "two calls per step",
    "distilled": "distilled into the model, one call",
    "unknown": "unknown",
}


def doctor_command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FOLDER|HUB-ID",
            help="An embedded pipeline (emoji-pixart, -sd, -flux, -wan), a diffusers folder, or a hub id.",
        ),
    ],
    height: options.Height = None,
    width: options.Width = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Video frames. Default: the family's own.")] = None,
    steps: Annotated[
        int, typer.Option("--steps", min=1, help="Count the scheduler's evaluations for this many.")
    ] = 20,
    check_family: Annotated[
        bool,
        typer.Option(
            "--check-family",
            help="Instead, run the denoiser many times to prove what is known of it; exit with 1 if it is not so.",
        ),
    ] = False,
    family_file: Annotated[
        Path | None,
        typer.Option("--family-file", help="A Python file that registers a family of your own; it is run first."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Examine a pipeline: blocks, sites, tokens, guidance, scheduler, cost, and what each pass could do or why not.

    Example: dit-accel doctor emoji-pixart
    """
    import json

    from dit_accel.cli.model import hush_loading
    from dit_accel.doctor.report import doctor_report
    from dit_accel.passes.base import obstacles_by_pass
    from dit_accel.pipelines.loading import load_pipeline

    if family_file is not None:
        _run_family_file(family_file)
    tell(f"loading {model} ...", style="dim")
    if check_family:
        _check_families(model, height, width, frames, as_json=as_json)
        return
    hush_loading()
    pipe = load_pipeline(model)
    report = doctor_report(
        pipe, obstacles_by_pass(), height_px=height, width_px=width, num_frames=frames, num_steps=steps
    )
    if as_json:
        print_json(json.dumps(report.to_dict(), indent=1))
    else:
        print_doctor(report)


def _run_family_file(file: Path) -> None:
    import runpy

    if not file.is_file():
        raise ConfigError(f"no Python file at '{file}'")
    runpy.run_path(str(file))


def _check_families(model: str, height: int | None, width: int | None, frames: int | None, *, as_json: bool) -> None:
    import json

    from dit_accel.cli.check_family import check_families, print_faults
    from dit_accel.cli.model import load_for_cli
    from dit_accel.pipelines.generation import GenerationSettings

    settings = GenerationSettings(num_inference_steps=2, height=height, width=width, num_frames=frames)
    faults = check_families(load_for_cli(model, "auto", "auto"), settings)
    if as_json:
        print_json(json.dumps(faults, indent=1))
    else:
        print_faults(faults)
    if any(faults.values()):
        raise typer.Exit(EXIT_FAILED)


def print_doctor(report: "DoctorReport") -> None:
    """Print a report for people, on stdout."""
    console = out()
    console.print(f"[bold]{report.pipeline_class}[/]")
    if report.scheduler is not None:
        _line(console, "scheduler", _scheduler(report.scheduler))
    for denoiser in report.denoisers:
        console.print()
        _print_denoiser(console, denoiser)


def _scheduler(facts: "SchedulerFacts") -> str:
    text = f"{facts.name}, order {facts.order}: "
    if facts.evaluations is None:
        return f"{text}could not be asked for its evaluations"
    text += f"{facts.evaluations} evaluations for {facts.num_steps} steps"
    return f"{text}, some timestep values repeat" if facts.repeats else text


def _print_denoiser(console: "Console", denoiser: "DenoiserReport") -> None:
    console.print(f"[bold]{denoiser.name}[/]: {denoiser.model_class}")
    if denoiser.problem is not None:
        console.print(denoiser.problem, style="red", markup=False)
        return
    known = "discovered, no shipped family" if denoiser.discovered else f"family '{denoiser.family}'"
    weights = f"{denoiser.num_parameters / 1e6:,.2f} M weights, {denoiser.dtype} on {denoiser.device}"
    _line(console, "known as", f"{known}; {weights}")
    _line(console, "blocks", str(denoiser.num_blocks))
    _line(console, "sites", ", ".join(f"{count} {kind}" for kind, count in denoiser.sites.items()))
    _line(
        console, "", f"{denoiser.num_invariant} invariant; {denoiser.num_auxiliary} norms skipped with their readers"
    )
    frames, rows, columns = denoiser.grid
    shape = f"{frames}×{rows}×{columns}" if frames > 1 or denoiser.num_frames > 1 else f"{rows}×{columns}"
    size = f"{denoiser.size_px[1]}×{denoiser.size_px[0]} px"
    if denoiser.num_frames > 1:
        size += f", {denoiser.num_frames} frames"
    _line(console, "tokens", f"{denoiser.num_tokens:,} ({shape}) at {size}; prompt {denoiser.text_tokens}")
    _line(console, "prompt", f"{', '.join(denoiser.conditioning) or 'none found'} ({denoiser.text})")
    _line(console, "guidance", _GUIDANCE.get(denoiser.guidance, denoiser.guidance))
    _print_cost(console, denoiser)
    _line(console, "state", "; ".join(denoiser.state) or "as loaded")
    for name, reasons in denoiser.obstacles.items():
        _line(console, f"pass {name}", "can act" if not reasons else f"cannot: {'; '.join(reasons)}")
    for note in denoiser.notes:
        _line(console, "note", note)


def _print_cost(console: "Console", denoiser: "DenoiserReport") -> None:
    if denoiser.cost is None:
        _line(console, "cost", f"not counted: {denoiser.cost_problem}")
        return
    cost = denoiser.cost
    _line(console, "cost", f"{_macs(cost.total)} per image and call, {_macs(cost.linear)} without attention products")
    shares = (f"{kind} {share:.1%}" for kind, share in cost.share_frac.items() if share >= 0.0005)
    _line(console, "", ", ".join(shares))


def _line(console: "Console", label: str, text: str) -> None:
    console.print(f"  {label:<18}{text}", markup=False)


def _macs(count: int) -> str:
    """A number of multiply-accumulates in a readable unit."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if count >= size:
            return f"{count / size:,.2f} {unit}MACs"
    return f"{count} MACs"
