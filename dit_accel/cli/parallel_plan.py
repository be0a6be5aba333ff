"""``dit-accel parallel-plan``: which way of sharing a pipeline among ranks is best, before anyone rents them."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dit_accel.cli import options
from dit_accel.cli.console import out, print_json, tell

if TYPE_CHECKING:
    from dit_accel.calibration.parallel import Prediction
    from dit_accel.calibration.parallel_ways import Measured

TABLE_WIDTH = 108  # no name may be cut off, whatever the terminal thinks of itself
COLUMNS = ("way", "a picture", "speed-up", "exact", "computed", "sent", "waiting", "hidden", "pictures/s")


def parallel_plan_command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FOLDER|HUB-ID",
            help="An embedded pipeline (emoji-pixart, -sd, -flux, -wan), a diffusers folder, or a hub id.",
        ),
    ],
    ranks: Annotated[int, typer.Option(min=2, help="How many devices there would be.")] = 2,
    bandwidth: Annotated[
        str,
        typer.Option(
            metavar="GB/S|NAME",
            help="What one rank can send in a second, 10^9 bytes: a number, or nvlink, pcie5, pcie4, 100gbe, 10gbe.",
        ),
    ] = "pcie4",
    latency_us: Annotated[float, typer.Option(min=0, help="Microseconds of one operation between two ranks.")] = 20.0,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps of a run.")] = 20,
    warmup: Annotated[int, typer.Option(min=1, help="Steps that wait for fresh values, in stale and partial.")] = 4,
    halo: Annotated[float, typer.Option(help="Share of a neighbour's rows that partial patches see.")] = 0.3,
    guidance: options.Guidance = None,
    height: options.Height = None,
    width: options.Width = None,
    frames: Annotated[int | None, typer.Option("--frames", min=1, help="Frames of a video.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Measured runs of each way.")] = 1,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    as_json: options.Json = False,
) -> None:
    """Say which way of sharing is best and why: guidance, patches, sequence or data.

    This machine computes what one rank of each way would compute, and counts what it would send; a model of the link
    tells what that takes. Other ranks are not needed. Measure on the kind of device that will be used.

    Example: dit-accel parallel-plan emoji-pixart --ranks 4 --bandwidth 100gbe
    """
    import json
    from dataclasses import asdict
    from datetime import datetime, timezone

    from dit_accel.calibration.parallel import predict, verdict
    from dit_accel.calibration.parallel_ways import measure
    from dit_accel.cli.model import load_for_cli
    from dit_accel.evaluation.reports.environment import collect_environment
    from dit_accel.passes.patch_parallel.config import PatchParallelConfig
    from dit_accel.passes.patch_parallel.simulate import Link
    from dit_accel.pipelines.generation import GenerationSettings, generate

    link = Link.named(bandwidth, latency_us)
    PatchParallelConfig(halo=halo, warmup=warmup)
    tell(f"loading {model} ...")
    pipe = load_for_cli(model, device, dtype)

    def run(num: int) -> object:
        settings = GenerationSettings(
            num_inference_steps=num, guidance_scale=guidance, height=height, width=width, num_frames=frames
        )
        return generate(pipe, ["a red apple"], [0], settings)

    tell(f"playing one rank of {ranks}, way by way ...")
    measured = measure(pipe, run, ranks, halo=halo, repeats=repeats)
    predictions, refused = predict(measured, link, evaluations=steps, warmup=warmup)
    words = verdict(predictions)
    if as_json:
        data = {
            "model": model,
            "ranks": ranks,
            "link": asdict(link),
            "steps": steps,
            "evaluation_s": measured.plain_s,
            "rest_s": measured.rest_s,
            "ways": [asdict(each) for each in predictions],
            "refused": refused,
            "verdict": words,
            "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "environment": collect_environment().model_dump(mode="json"),
        }
        print_json(json.dumps(data, indent=1))
        return
    title = f"{model} on {ranks} ranks, {steps} steps, {link.gb_per_s:g} GB/s, {link.latency_us:g} us: foretold"
    out().print(_table(title, predictions))
    for name, reason in refused.items():
        out().print(f"- {name}: no, {reason}", markup=False)
    for sentence in (*words, _basis(measured)):
        out().print(sentence, markup=False)


def _table(title: str, predictions: "tuple[Prediction, ...]") -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", show_edge=False, width=TABLE_WIDTH)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "way" else "right", no_wrap=True)
    for each in predictions:
        table.add_row(
            each.name,
            f"{each.picture_s:.3g} s",
            f"{each.speedup:.2f}x",
            "yes" if each.exact else "no",
            f"{each.computed_frac:.0%}",
            f"{each.sent_mib:.2f} MiB",
            f"{each.waited_frac:.0%}",
            f"{each.hidden_frac:.0%}" if each.sent_mib else "",
            f"{each.pictures_per_s:.3g}",
        )
    return table


def _basis(measured: "Measured") -> str:
    return (
        f"Measured here: {measured.plain_s * 1e3:.1f} ms for an evaluation in one process, and "
        f"{measured.rest_s * 1e3:.0f} ms of a run that is not shared; bytes are counted; the link is a model, and "
        "'sequence' takes the computation of 'patches, sync'. Every rank holds all weights."
    )
