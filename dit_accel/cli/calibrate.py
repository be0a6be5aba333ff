"""``dit-accel calibrate``: search trajectory plans of all speeds for a pipeline, and save those of the front."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dit_accel.cli import options
from dit_accel.cli.calibrate_kinds import check_options
from dit_accel.cli.calibrate_output import choose_point, say
from dit_accel.cli.calibrate_where import spread_for
from dit_accel.cli.console import EXIT_STOPPED, print_json, tell
from dit_accel.errors import ConfigError

if TYPE_CHECKING:
    from dit_accel.plan.plan import AccelerationPlan

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def calibrate_command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FOLDER|HUB-ID", help="An embedded pipeline (emoji-pixart), a folder, or a hub id."
        ),
    ],
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="How long to search: 90s, 20m, 2h. Default: 20m.")
    ] = None,
    max_lpips: Annotated[
        float | None, typer.Option(min=0, help="The fastest plan with a mean ST-LPIPS of this.")
    ] = None,
    min_psnr: Annotated[float | None, typer.Option(help="The fastest plan with a mean PSNR of this, dB.")] = None,
    min_speedup: Annotated[
        float | None, typer.Option(min=1, help="Evaluations of a run by those that are computed, at least.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="For plans and progress. Default: outputs/calibrate/NAME."
        ),
    ] = None,
    plan_name: Annotated[str | None, typer.Option("--name", help="What the chosen plan is called.")] = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    guidance_range: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="LOW HIGH", help="Fit the weights at these guidance scales too, and interpolate."),
    ] = None,
    branches: Annotated[
        bool, typer.Option(help="Weights of its own for each guidance branch: closer, and no form as a scheduler.")
    ] = False,
    half_calls: Annotated[
        bool, typer.Option("--half-calls", help="With --branches: also try to compute the conditional branch alone.")
    ] = False,
    plan: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PRESET|FOLDER|FILE|HUB-ID",
            help="Begin also with the computed calls of this plan, so that nothing worse is found; repeatable.",
        ),
    ] = None,
    tail: Annotated[
        float,
        typer.Option(min=0, help="Let difficult prompts count more in the fit: 1 somewhat, 4 a lot; thrice the time."),
    ] = 0.0,
    sweeps: Annotated[
        int, typer.Option(min=0, help="Refit the answers of the front so often for the end of the run: slow.")
    ] = 0,
    height: options.Height = None,
    width: options.Width = None,
    frames: Annotated[int | None, typer.Option("--frames", min=1, help="Frames of a video.")] = None,
    num_prompts: Annotated[
        int | None, typer.Option(min=2, help="Drawn in one call. Default: 32 images or 12 videos.")
    ] = None,
    cohort: Annotated[
        int | None,
        typer.Option(min=1, metavar="ROWS", help="Of a batch, that the denoiser sees at a time. Default: all."),
    ] = None,
    generations: Annotated[
        int | None, typer.Option(min=0, help="Of the evolutionary search, instead of a time.")
    ] = None,
    resume: Annotated[
        bool, typer.Option(help="Go on from what was judged in the folder, exactly; else forget it.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Of the search.")] = 0,
    sites: Annotated[bool, typer.Option("--sites", help="Also reuse sites inside the computed calls.")] = False,
    on_plan: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|FILE|HUB-ID",
            help="With --sites: search on this quantised plan, and how many steps at either end stay exact.",
        ),
    ] = None,
    ecad: Annotated[
        bool, typer.Option("--ecad", help="ECAD's own setting: booleans for every step and site, scored by a judge.")
    ] = False,
    seeds_each: Annotated[int, typer.Option(min=1, help="With --ecad: pictures of each prompt.")] = 10,
    judge: Annotated[str | None, typer.Option(help="With --ecad: who scores. Default: the best at hand.")] = None,
    population: Annotated[int | None, typer.Option(min=4, help="With --sites or --ecad. Default: 24, 72.")] = None,
    weights: Annotated[Path, typer.Option(metavar="FOLDER", help="With --ecad: of the judge.")] = Path("weights"),
    attention: options.Attention = False,
    density: options.Density = None,
    mass: options.Mass = None,
    block: options.Block = 64,
    parts: options.Parts = 4,
    dense_steps: options.DenseSteps = 0.0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of torch, in each process.")] = 1,
    workers: Annotated[
        int, typer.Option(min=0, help="Judge in so many processes of their own, with the same results.")
    ] = 0,
    ray: Annotated[bool, typer.Option("--ray", help="The workers are on a Ray cluster (RAY_ADDRESS).")] = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    as_json: options.Json = False,
) -> None:
    """Find trajectory plans for a pipeline: which denoiser calls to compute, and how to answer the others.

    Stopped at any time, the same command goes on where it was. Each plan of the front is a folder of its own; with a
    limit the plan that was asked for is named, and is in the folder "chosen". Certify it before you trust it.

    On several GPUs: accelerate launch -m dit_accel calibrate ..., which judges on all of them.

    Example: dit-accel calibrate emoji-flux --budget 2m --max-lpips 0.02
    """
    import json
    import shutil

    import torch

    from dit_accel.calibration.books import forget
    from dit_accel.calibration.calibrate import Calibration, calibrate
    from dit_accel.calibration.on_ranks import launched, leads, own_device, serve
    from dit_accel.calibration.picture import Picture
    from dit_accel.calibration.shelf import put
    from dit_accel.cli.model import load_for_cli
    from dit_accel.cli.search_progress import search_bar
    from dit_accel.evaluation.metrics.fidelity import require_metrics
    from dit_accel.pipelines.generation import GenerationSettings
    from dit_accel.pipelines.loading import folder_of_model, name_of_model
    from dit_accel.plan.plan import AccelerationPlan
    from dit_accel.session.presets import PRESETS

    budget_s = seconds_of(budget or "20m")
    require_metrics()
    torch.set_num_threads(threads)
    name = name_of_model(model)
    folder = output or Path("outputs/calibrate") / folder_of_model(model)
    settings = GenerationSettings(
        num_inference_steps=steps, guidance_scale=guidance, height=height, width=width, num_frames=frames
    )
    beginnings = [each if each in PRESETS else AccelerationPlan.from_pretrained(each) for each in plan or ()]
    if on_plan and (not sites or workers or ray or launched()):
        raise ConfigError(
            "--on-plan goes with --sites, in one process; `dit-accel quantize --with` fits a plan on a quantised model"
        )
    if attention and (sites or ecad):
        raise ConfigError(
            "--attention, --sites and --ecad exclude each other; --plan joins masks with what they found"
        )
    if (ecad or attention) and launched():
        raise ConfigError("--ecad and --attention take one process: leave out the launcher")
    kind = "attention" if attention else "ecad" if ecad else "sites" if sites else ""
    check_options(
        kind,
        {
            "--max-lpips": max_lpips is not None, "--min-psnr": min_psnr is not None, "--name": plan_name is not None,
            "--min-speedup": min_speedup is not None, "--cohort": cohort is not None, "--tail": tail > 0,
            "--guidance-range": guidance_range is not None, "--half-calls": half_calls, "--sweeps": sweeps > 0,
            "--budget": budget is not None, "--generations": generations is not None, "--seed": seed != 0,
            "--population": population is not None, "--branches": branches, "--plan": bool(plan),
            "--workers": workers > 0, "--ray": ray,
        },
    )  # fmt: skip
    if not resume and leads():
        forget(folder / kind)
    if kind:
        shared: dict[str, Any] = {"model": name, "settings": settings, "num_prompts": num_prompts, "as_json": as_json}
        tell(f"loading {model} ...")
        load = partial(load_for_cli, model, own_device(device), dtype)
        if attention:
            from dit_accel.cli.calibrate_attention import run_attention

            pipe = load()
            wanted: dict[str, Any] = {"densities": density, "masses": mass, "block": block, "parts": parts}
            wanted |= {"dense_steps_frac": dense_steps, "joined": _resolved(beginnings, pipe)}
            run_attention(pipe, folder, **wanted, **shared)
            return
        from dit_accel.cli.calibrate_sites import run_ecad, run_sites

        shared |= {"seed": seed, "budget_s": budget_s, "generations": generations}
        shared |= {} if population is None else {"population": population}
        spread = spread_for(load, workers, ray, threads)
        pipe = load()
        if not leads():
            serve(pipe)
            return
        if ecad:
            run_ecad(pipe, folder, seeds_each=seeds_each, judge=judge, weights=weights, **shared)
        else:
            plans = _resolved(beginnings, pipe)
            shared["on_plan"] = None if on_plan is None else AccelerationPlan.from_pretrained(on_plan)
            run_sites(pipe, folder, plans=plans, branches=branches, spread=spread, **shared)
        return
    limits: dict[str, Any] = {"max_lpips": max_lpips, "min_psnr_db": min_psnr, "min_speedup": min_speedup}
    choose = partial(choose_point, limits=limits, quiet=True)
    picture = Picture(folder, title=f"{name}, on search prompts", choose=choose, tell=tell)
    found, stopped = Calibration(), False
    try:
        tell(f"loading {model} ...")
        load = partial(load_for_cli, model, own_device(device), dtype)
        spread = spread_for(load, workers, ray, threads)
        pipe = load()
        if not leads():
            serve(pipe)
            return
        with search_bar(name) as show:

            def on_progress(what: str, left_s: float, calibration: Calibration) -> None:
                nonlocal found
                found = calibration  # also what there is to tell of when somebody stops it
                show(what, left_s, calibration)
                if what in ("generation", "judge"):
                    picture.refresh(calibration.points)

            found = calibrate(
                pipe,
                folder,
                model=name,
                settings=settings,
                num_prompts=num_prompts,
                budget_s=budget_s,
                generations=generations,
                seed=seed,
                guidance_values=guidance_range or (),
                branches=branches,
                half_calls=half_calls,
                tail=tail,
                sweeps=sweeps,
                cohort=cohort,
                plans=_resolved(beginnings, pipe),
                on_progress=on_progress,
                spread=spread,
            )
    except KeyboardInterrupt:
        stopped = True
    picture.refresh(found.points, now=True)
    shutil.rmtree(folder / "chosen", ignore_errors=True)  # of other limits
    chosen = choose_point(found.front if stopped else found.points, limits, stopped)
    if chosen is not None:
        best = found.plan(chosen) if stopped else found.finished(chosen)
        put(replace(best, name=plan_name or best.name), folder / "chosen")
    if as_json:
        data = {
            "folder": str(folder),
            "front": [point.to_dict() for point in found.front],
            "chosen": chosen and chosen.to_dict(),
            "judged": len(found.points),
            "skipped": len(found.skipped),
            "stopped": stopped,
        }
        print_json(json.dumps(data))
    else:
        say(found, chosen, folder, model, stopped)
    if stopped:
        raise typer.Exit(EXIT_STOPPED)


def _resolved(plans: "Sequence[str | AccelerationPlan]", pipe: Any) -> "list[AccelerationPlan]":
    """Plans of a pipeline, presets by name among them."""
    from dit_accel.api import resolve_plan
    from dit_accel.families.targets import find_targets

    return [resolve_plan(each, find_targets(pipe)) for each in plans]


def seconds_of(text: str) -> float:
    """Seconds of ``90s``, ``20m`` or ``2h``.

    Raises:
        ConfigError: It is none of these.
    """
    try:
        value = float(text[:-1]) * UNITS[text[-1:]]
    except (KeyError, ValueError):
        value = -1.0
    if value <= 0:
        raise ConfigError(f"'{text}' is no time; write 90s, 20m or 2h")
    return value
