"""``dit-accel evaluate``: FID, CLIP score, ImageReward, VBench-style scores and fidelity, from files on disk."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dit_accel.cli import options
from dit_accel.cli.console import print_json, tell
from dit_accel.cli.evaluate_inputs import Needed, kind_of, model_name, named_folder, plans_of, prompts_of
from dit_accel.errors import ConfigError

if TYPE_CHECKING:
    from dit_accel.evaluation.metrics.networks import LoadedNetwork
    from dit_accel.evaluation.reports.report import Report
    from dit_accel.evaluation.suites.protocols import Suite
    from dit_accel.evaluation.suites.run import OnProgress

SUITE_HELP = "coco, mjhq, parti, vbench or fidelity."
FEW_IMAGES_ADVICE = "compare it only with numbers of as many images, or read the kernel distance beside it"


def evaluate_command(
    suite: Annotated[str, typer.Argument(metavar="SUITE", help=SUITE_HELP)],
    model: Annotated[
        str | None,
        typer.Argument(metavar="[NAME|FOLDER|HUB-ID]", help="The pipeline; none: only folders given with --images."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Prompts: .txt, .tsv, .csv, .jsonl or .json. Default for embedded pipelines: shipped."
        ),
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Real images, in a folder of a category each for mjhq.")
    ] = None,
    preset: Annotated[
        list[str] | None,
        typer.Option(help="Evaluate the pipeline so accelerated; 'none' is plain. May be repeated. Default: none."),
    ] = None,
    plan: Annotated[
        list[str] | None, typer.Option(metavar="FOLDER|FILE|HUB-ID", help="A saved plan. May be repeated.")
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]FOLDER", help="Images made elsewhere, named as the prompts. May be repeated."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Default: outputs/evaluate/SUITE-MODEL."),
    ] = None,
    num: Annotated[int | None, typer.Option(min=1, help="Prompts. Default: the evaluation's own number.")] = None,
    per_prompt: Annotated[int | None, typer.Option(min=1, help="Images or videos of each prompt.")] = None,
    seed: options.Seed = 0,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    height: options.Height = None,
    width: options.Width = None,
    frames: Annotated[int | None, typer.Option("--frames", min=1, help="Frames of a video.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="A pipeline call. Default: 4 images, 1 video.")] = None,
    network: Annotated[
        str | None, typer.Option(help="Feature network: inception-v3 (FID), effnet-lite0 (no FID), or none.")
    ] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(help="clip, image-reward, emoji-two-tower, or none. May be repeated. Default: the evaluation's."),
    ] = None,
    crop: Annotated[str | None, typer.Option(help="none or center, before the feature network.")] = None,
    size: Annotated[
        int | None, typer.Option(min=0, help="Then resized to so many pixels (Pillow, bicubic); 0: not at all.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Weights of no package. Default: ~/.cache/dit_accel/weights."),
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch missing weights into that folder.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of torch. Default: torch's choice.")] = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    as_json: options.Json = False,
) -> None:
    """Measure how good a pipeline's images or videos are, plain and accelerated, as papers do; write a report.

    coco: FID and CLIP score on 30,000 captions. mjhq: FID by category. parti: CLIP score and ImageReward.
    vbench: flickering, consistency and alignment of videos. fidelity: how close to the plain run.

    Stopped at any time, the same command goes on and ends in the same numbers. To share it out over processes or
    GPUs: accelerate launch -m dit_accel evaluate ...

    Example, offline: dit-accel evaluate fidelity emoji-pixart --preset fast --num 20
    """
    from dataclasses import replace

    from dit_accel.evaluation.metrics.fidelity import require_metrics
    from dit_accel.evaluation.suites.protocols import find_suite

    chosen = find_suite(suite)
    plans = plans_of(preset, plan, chosen) if model is not None else {}
    folders = dict(named_folder(each) for each in images or ())
    if model is None and (preset or plan):
        raise ConfigError("a preset or plan needs a pipeline: name one after the evaluation")
    require_metrics()
    from dit_accel.evaluation.reports.environment import command_line
    from dit_accel.evaluation.suites.image_files import Preparation
    from dit_accel.evaluation.suites.prompt_files import shipped_prompts
    from dit_accel.evaluation.suites.request import Request
    from dit_accel.evaluation.suites.run import evaluate
    from dit_accel.evaluation.suites.weight_files import DEFAULT_FOLDER
    from dit_accel.pipelines.generation import GenerationSettings, makes_video

    own = chosen.preparation
    preparation = Preparation(
        crop=own.crop if crop is None else crop,  # type: ignore[arg-type]
        size_px=own.size_px if size is None else size or None,
    )
    name = model_name(model, folders)
    state = _state(device)
    say: Callable[..., None] = tell if state is None or state.is_main_process else _silent
    place = _own_device(state, device)
    needed = Needed(chosen, model, weights or DEFAULT_FOLDER, place, download=download, say=say)
    kind = kind_of(model, chosen)
    request = Request(
        suite=chosen,
        prompts=prompts_of(prompts, model, chosen, kind),
        model=name,
        plans=plans,
        images=folders,
        settings=GenerationSettings(
            num_inference_steps=steps, guidance_scale=guidance, height=height, width=width, num_frames=frames
        ),
        num=num,
        copies=per_prompt,
        seed=seed,
        batch_size=batch_size or (4 if kind == "image" else 1),
        reference=reference,
        network=needed.network(network),
        judges=needed.judges(judge),
        preparation=preparation,
        command=command_line(),
    )
    request.check()
    for skipped in request.prompts.skipped[:5]:
        say(f"left out: {skipped.where}: {skipped.why}", style="yellow")
    if len(request.prompts.skipped) > 5:
        say(f"left out: {len(request.prompts.skipped) - 5} more", style="yellow")
    _warn_few(request.network, request.reference, len(request.items()), chosen, say)
    folder = output or Path("outputs/evaluate") / f"{chosen.name}-{name.replace('/', '--')}"
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    pipe = None
    if model is not None:
        from dit_accel.cli.model import load_for_cli

        say(f"loading {model} ...")
        pipe = load_for_cli(model, place, dtype)
        if chosen.fidelity and makes_video(pipe) and kind == "image":  # not known before it is loaded
            own_prompts = request.prompts if prompts is not None else shipped_prompts("video")
            request = replace(request, prompts=own_prompts, batch_size=batch_size or 1)
    say(f"into {folder}; stop it when you like, the same command goes on ...")
    with _bars(state) as on_progress:
        report = evaluate(request, folder, pipe=pipe, state=state, on_progress=on_progress)
    if report is not None:
        _show(report, folder, as_json=as_json)


def _warn_few(
    network: "LoadedNetwork | None", reference: Path | None, count: int, suite: "Suite", say: Callable[..., None]
) -> None:
    from dit_accel.evaluation.metrics.distances import FEW_IMAGES
    from dit_accel.evaluation.suites.image_files import list_images

    if network is None or reference is None or not suite.distances:
        return
    fewest = min(count, len(list_images(reference)))
    if fewest < FEW_IMAGES:
        name = network.facts.frechet_name
        say(
            f"warning: {name} on {fewest} images, fewer than {FEW_IMAGES}, is biased upwards: {FEW_IMAGES_ADVICE}",
            style="bold yellow",
        )


def _state(device: str) -> Any:
    """Accelerate's, when it started this process; ``None`` for a process by itself."""
    if "WORLD_SIZE" not in os.environ or os.environ["WORLD_SIZE"] == "1":
        return None
    from datetime import timedelta

    from accelerate import PartialState

    return PartialState(cpu=device == "cpu", timeout=timedelta(days=7))  # shares take as long as they take


def _own_device(state: Any, device: str) -> str:
    from dit_accel.pipelines.loading import pick_device

    return str(state.device) if state is not None and device == "auto" else str(pick_device(device))


def _silent(message: str, *, style: str | None = None) -> None:
    """Other processes than the first."""


@contextmanager
def _bars(state: Any) -> "Iterator[OnProgress]":
    """A bar for each phase, of the first process's share."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from dit_accel.cli.console import err

    share = "" if state is None else f", share 1 of {state.num_processes}"
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    is_main = state is None or state.is_main_process
    with Progress(*columns, console=err(), transient=False, disable=not is_main) as progress:
        tasks: dict[str, Any] = {}

        def show(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = progress.add_task(phase + share, total=total)
            progress.update(tasks[phase], completed=done)

        yield show


def _show(report: "Report", folder: Path, *, as_json: bool) -> None:
    from dit_accel.cli.report import print_report
    from dit_accel.evaluation.reports.report import REPORT_FILE
    from dit_accel.evaluation.suites.sheet import SHEET_FILE

    if as_json:
        print_json(report.model_dump_json(indent=1))
    else:
        print_report(report, folder)
    tell(f"a few pictures: {folder / SHEET_FILE}\nreport: {folder / REPORT_FILE}")
