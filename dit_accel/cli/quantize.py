"""``dit-accel quantize``: find out how few bits each layer of a pipeline needs, and save that as a plan."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dit_accel.cli import options
from dit_accel.cli.console import EXIT_STOPPED, err, out, print_json, tell

if TYPE_CHECKING:
    from dit_accel.calibration.quant_joint import Joint
    from dit_accel.calibration.quantise import OnProgress, Quantisation
    from dit_accel.plan.plan import AccelerationPlan

STAGES = {
    "record": "recording what layers are given",
    "fit": "rounding layers",
    "gram": "seeing how errors add up",
    "content": "seeing what single layers do to pictures",
    "judge": "judging",
}


def quantize_command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FOLDER|HUB-ID", help="An embedded pipeline (emoji-pixart), a folder, or a hub id."
        ),
    ],
    bits: Annotated[
        str, typer.Option(metavar="SCHEME", help="Of layers inside of blocks, at least: w8a8, w4a8, w4a16, fp8, ...")
    ] = "w4a8",
    memory: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of the weights' bytes that remains; layers share it by their errors."),
    ] = None,
    max_lpips: Annotated[
        float | None,
        typer.Option(min=0, help="The smallest memory with a mean LPIPS (else ST-LPIPS) to the plain run of this."),
    ] = None,
    latency: Annotated[
        float | None, typer.Option(min=0, help="Share of the time that layers take in full on this machine.")
    ] = None,
    modulation: Annotated[
        str,
        typer.Option(
            metavar="SCHEME", help="Of layers that see the timestep alone; auto: as many bits, plain: as they are."
        ),
    ] = "auto",
    convs: Annotated[str, typer.Option(metavar="SCHEME", help="Of convolutions inside of blocks (UNets).")] = "w8a8",
    exact_first: Annotated[int, typer.Option(min=0, help="Steps at the start with the weights as they were.")] = 0,
    exact_last: Annotated[int, typer.Option(min=0, help="Steps at the end with the weights as they were.")] = 0,
    with_plan: Annotated[
        str | None,
        typer.Option(
            "--with",
            metavar="PRESET|FOLDER|FILE|HUB-ID",
            help="Also fit the trajectory of this plan to the quantised model; both in one plan.",
        ),
    ] = None,
    most_gain: Annotated[
        float,
        typer.Option(min=1, help="With --with: rounding noise of an answer by that of a computed output, at most."),
    ] = 1.5,
    held_out: Annotated[
        int | None,
        typer.Option(
            "--certify",
            metavar="N",
            min=1,
            help="Then measure the plan on so many held-out prompts; 200 images (100 videos) make a certificate.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="For plan and progress. Default: outputs/quantize/NAME."
        ),
    ] = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    height: options.Height = None,
    width: options.Width = None,
    frames: Annotated[int | None, typer.Option("--frames", min=1, help="Frames of a video.")] = None,
    num_prompts: Annotated[
        int | None,
        typer.Option(min=1, help="Recorded; up to 8 others are judged. Default: 64 images, 12 videos."),
    ] = None,
    how: Annotated[
        str,
        typer.Option(
            metavar="gram|diagonal|decoupled",
            help="By what layers get bits: errors and how they add up, each by itself, or each by what it is for.",
        ),
    ] = "gram",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of torch.")] = 1,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    as_json: options.Json = False,
) -> None:
    """Find a quantisation plan: record what layers are given, round them by that, and give each its bits.

    Stopped at any time, the same command goes on where it was. The plan holds the weights in few bits, and is loaded
    onto the same model in a second. Certify it before you trust it: --certify 200 does both.

    Example: dit-accel quantize emoji-pixart --bits w4a8 --max-lpips 0.05

    With a trajectory in one plan: dit-accel quantize emoji-pixart --bits w8a8 --with balanced
    """
    import json

    import torch

    from dit_accel.api import resolve_plan
    from dit_accel.calibration.quant_joint import join
    from dit_accel.calibration.quantise import quantise
    from dit_accel.cli.certify import certifying, say_certified
    from dit_accel.cli.generate import as_path
    from dit_accel.cli.model import load_for_cli
    from dit_accel.evaluation.certify.certify import certify
    from dit_accel.evaluation.metrics.fidelity import require_metrics
    from dit_accel.families.targets import find_targets
    from dit_accel.passes.quantize.config import scheme_of
    from dit_accel.passes.quantize.ways import AUTO
    from dit_accel.pipelines.generation import GenerationSettings
    from dit_accel.pipelines.loading import folder_of_model, name_of_model

    for text in (bits, convs, *(() if modulation == AUTO else (modulation,))):
        scheme_of(text)
    require_metrics()
    torch.set_num_threads(threads)
    name = name_of_model(model)
    folder = output or Path("outputs/quantize") / folder_of_model(model)
    settings = GenerationSettings(
        num_inference_steps=steps, guidance_scale=guidance, height=height, width=width, num_frames=frames
    )
    try:
        tell(f"loading {model} ...")
        pipe = load_for_cli(model, device, dtype)
        with _bar(name) as show:
            found = quantise(
                pipe,
                folder,
                model=name,
                bits=bits,
                convs=convs,
                modulation=modulation,
                memory=memory,
                max_lpips=max_lpips,
                latency=latency,
                how=how,  # type: ignore[arg-type]
                settings=settings,
                num_prompts=num_prompts,
                exact_first=exact_first,
                exact_last=exact_last,
                on_progress=show,
            )
        joint = None
        if with_plan is not None:
            tell(f"fitting the trajectory of '{with_plan}' on the quantised model ...")
            joint = join(
                pipe,
                found.plan,
                resolve_plan(as_path(with_plan), find_targets(pipe)),
                model=name,
                settings=settings,
                num_prompts=num_prompts,
                most_gain=most_gain,
            )
            joint.plan.save_pretrained(folder / "joint")
        certified = None
        if held_out is not None:
            plan, made = found.plan if joint is None else joint.plan, folder / "certified"
            certified = _certified_before(made, plan)
            if certified is None:
                tell("measuring it on held-out prompts ...")
                with certifying() as on_progress:
                    certified = certify(
                        pipe,
                        plan,
                        made,
                        model=name,
                        settings=settings,
                        num_prompts=held_out,
                        allow_small=True,
                        on_progress=on_progress,
                    )
    except KeyboardInterrupt:
        tell(f"stopped; what was found is kept in {folder}. The same command goes on from here.")
        raise typer.Exit(EXIT_STOPPED) from None
    if as_json:
        config = found.plan.passes[0].to_dict()
        judged = [{"memory": share, **scores} for share, scores in found.judged]
        data = {"folder": str(folder), "memory": found.memory, "scores": found.scores, "judged": judged}
        if joint is not None:
            data["joint"] = {"folder": str(folder / "joint"), "gain": joint.gain, "scores": joint.scores}
        if certified is not None:
            data["certified"] = certified.certificate is not None
        print_json(json.dumps(data | {"layers": config["layers"]}))
        return
    _say(found, folder)
    if joint is not None:
        _say_joint(joint)
    if certified is None:
        made = folder if joint is None else folder / "joint"
        tell(f"plan: {made}. It was judged on search prompts; for others:")
        tell(f"dit-accel certify {model} --plan {made}")
        return
    say_certified(certified, folder / "certified")


def _certified_before(folder: Path, plan: "AccelerationPlan") -> "AccelerationPlan | None":
    """What an earlier call of the same command came to."""
    from dit_accel.plan.plan import PLAN_FILE, AccelerationPlan

    if not (folder / PLAN_FILE).exists():
        return None
    before = AccelerationPlan.from_pretrained(folder)
    return before if before.content_sha256() == plan.content_sha256() else None


def _say(found: "Quantisation", folder: Path) -> None:
    from collections import Counter

    from rich.table import Table

    table = Table("scheme", "layers", "share", title="inside of blocks")
    layers = found.plan.passes[0].to_dict()["layers"]
    for scheme, count in Counter(layers.values()).most_common():
        table.add_row(scheme, str(count), f"{count / len(layers):.0%}")
    out().print(table)
    scores = ", ".join(f"{name} {value:.4g}" for name, value in found.scores.items())
    out().print(f"{found.memory:.1%} of the weights' bytes remain; on search prompts: {scores}", markup=False)
    tell(f"plan: {folder}")


def _say_joint(joint: "Joint") -> None:
    from rich.table import Table

    metrics = list(next(iter(joint.scores.values()), {}))
    table = Table("applied", *metrics, title="on search prompts that nothing was fitted to")
    words = {
        "quantised": "quantised",
        "trajectory": "trajectory, on the model in full",
        "together": "both, each as it was found",
        "joint": "both, the trajectory fitted on the quantised model",
    }
    for name, scores in joint.scores.items():
        table.add_row(words[name], *(f"{scores[metric]:.4g}" for metric in metrics))
    out().print(table)
    tell(f"largest gain of rounding noise in an answer: {joint.gain:.2f}")


@contextmanager
def _bar(name: str) -> "Iterator[OnProgress]":
    """A bar on a terminal; where there is none, a line when something else begins."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = err()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(name, total=None)
        said = ""

        def show(what: str, done: int, total: int) -> None:
            nonlocal said
            words = f"{name}: {STAGES[what]}"
            progress.update(task, description=words, completed=done, total=total)
            if words != said and not console.is_terminal:
                tell(words)
            said = words

        yield show
