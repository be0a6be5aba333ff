"""``dit-accel certify``: measure a plan on held-out prompts and write it down with its certificate."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dit_accel.cli import options
from dit_accel.cli.console import err, out, print_json, tell
from dit_accel.errors import ConfigError

if TYPE_CHECKING:
    from dit_accel.evaluation.certify.certify import OnProgress
    from dit_accel.plan.plan import AccelerationPlan


def certify_command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FOLDER|HUB-ID", help="An embedded pipeline (emoji-pixart), a folder, or a hub id."
        ),
    ],
    preset: Annotated[str | None, typer.Option(help="Certify this preset's plan.")] = None,
    plan: Annotated[
        str | None, typer.Option(metavar="FOLDER|FILE|HUB-ID", help="Certify a saved plan, instead of a preset.")
    ] = None,
    speedup: Annotated[
        float | None,
        typer.Option(min=1, help="Certify the plan that theory gives: so many fewer denoiser evaluations."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="For plan, certificate and report. Default: outputs/certify/NAME."
        ),
    ] = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    height: options.Height = None,
    width: options.Width = None,
    frames: Annotated[int | None, typer.Option("--frames", min=1, help="Frames of a video.")] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Held-out prompts of your own, one a line. Default: the shipped list."),
    ] = None,
    num_prompts: Annotated[int | None, typer.Option(min=1, help="Take the first so many prompts only.")] = None,
    seed: Annotated[int, typer.Option(help="Of the first prompt; the next ones count up.")] = 0,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images or videos a pipeline call. Default: 4 images, 1 video.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timed rounds of one batch, variants interleaved.")] = 10,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of torch.")] = 1,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    allow_small: Annotated[
        bool,
        typer.Option(
            "--allow-small", help="With fewer than 200 images (100 videos) write a report, which is NO certificate."
        ),
    ] = False,
    plain: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Keep the plain images there, and take from there what was drawn: for other plans of a model.",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Measure a plan on prompts that nothing was tuned on, and save it with its certificate and the full report.

    Stopped at any time, the same command goes on where it was and ends in the same numbers.

    Example: dit-accel certify emoji-pixart --preset fast -o my-plan
    """
    import json

    import torch

    from dit_accel.cli.generate import as_path, chosen_plan
    from dit_accel.evaluation.certify.certify import certify
    from dit_accel.evaluation.metrics.fidelity import require_metrics
    from dit_accel.families.targets import find_targets
    from dit_accel.pipelines.generation import GenerationSettings
    from dit_accel.pipelines.loading import folder_of_model, name_of_model
    from dit_accel.session.limits import theory_plan

    given = sum(each is not None for each in (preset, plan, speedup))
    if given != 1:
        words = "--preset, --plan and --speedup exclude each other" if given else "say what to certify"
        raise ConfigError(f"{words}: one of --preset NAME, --plan FOLDER or --speedup NUMBER")
    chosen = None if speedup is not None else chosen_plan(preset, plan)
    if chosen is None and speedup is None:
        raise ConfigError("a plain run has nothing to certify; give a preset that accelerates")
    texts = None if prompts is None else _lines(prompts)
    require_metrics()
    from dit_accel.cli.model import load_for_cli

    torch.set_num_threads(threads)
    tell(f"loading {model} ...")
    pipe = load_for_cli(model, device, dtype)
    name = name_of_model(model)
    if speedup is None:
        assert chosen is not None
        subject, stem = as_path(chosen), Path(chosen).name.removesuffix(".json")
    else:
        subject = theory_plan(speedup, find_targets(pipe), model=model)
        stem = subject.name
    folder = output or Path("outputs/certify") / f"{folder_of_model(model)}-{stem}"
    tell("timing plain and accelerated in turn, then drawing; stop it when you like, the same command goes on ...")
    with certifying() as on_progress:
        done = certify(
            pipe,
            subject,
            folder,
            model=name,
            settings=GenerationSettings(
                num_inference_steps=steps, guidance_scale=guidance, height=height, width=width, num_frames=frames
            ),
            prompts=texts,
            num_prompts=num_prompts,
            seed=seed,
            batch_size=batch_size,
            repeats=repeats,
            allow_small=allow_small,
            plain_folder=plain,
            on_progress=on_progress,
        )
    if as_json:
        certificate = None if done.certificate is None else done.certificate.to_dict()
        print_json(json.dumps({"folder": str(folder), "certified": done.is_certified, "certificate": certificate}))
        return
    say_certified(done, folder)


def say_certified(done: "AccelerationPlan", folder: Path) -> None:
    """What a certification came to, and where it lies."""
    if done.certificate is None:
        tell("not a certificate: too few prompts; this is a report only", style="bold yellow")
    for sentence in done.certificate.words() if done.certificate else ():
        out().print(sentence, markup=False)
    out().print(str(folder), markup=False)


@contextmanager
def certifying() -> "Iterator[OnProgress]":
    """A bar for the certification inside of the block."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("certifying"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=err(), transient=True) as progress:
        task = progress.add_task("certifying", total=None)

        def show(done_s: float, total_s: float) -> None:
            progress.update(task, completed=done_s, total=total_s)

        yield show


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read prompts from '{path}': {error}") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise ConfigError(f"'{path}' holds no prompts; it should have one a line")
    return lines
