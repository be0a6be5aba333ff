"""``dit-accel demo``: the same prompts plain and accelerated, one picture (and video), one report, one table."""

from pathlib import Path
from typing import Annotated

import typer

from dit_accel.cli import options
from dit_accel.cli.console import out, print_json, tell

NUM_PROMPTS = 3
PRESET_NAMES = ("balanced", "fast")
BUDGET_S = 28.0


def demo_command(
    model: options.Model = options.DEFAULT_MODEL,
    prompt: Annotated[
        list[str] | None, typer.Option(help="Draw this instead; repeat the option for several prompts.")
    ] = None,
    preset: Annotated[
        list[str] | None, typer.Option(help="Measure this preset; repeat the option. Default: balanced and fast.")
    ] = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    seed: options.Seed = 0,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Timed runs of each variant. Default: what fits into half a minute.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for demo.png (of videos also demo.webp) and report.json.")
    ] = Path("outputs/demo"),
    threads: Annotated[
        int,
        typer.Option(min=1, help="CPU threads of torch. More are quicker on an idle machine, erratic on a busy one."),
    ] = 1,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    as_json: options.Json = False,
) -> None:
    """Draw the same prompts plain and accelerated; write a side-by-side picture and a report; print one table.

    Every preset is set against its honest rival: the plain pipeline with fewer steps that take the same time.

    Example: dit-accel demo --prompt "a red apple" --preset fast
    """
    import torch

    from dit_accel.cli.model import load_for_cli
    from dit_accel.cli.table import report_table
    from dit_accel.evaluation.compare.compare import compare_plans
    from dit_accel.evaluation.compare.pictures import save_side_by_side
    from dit_accel.evaluation.metrics.fidelity import require_metrics
    from dit_accel.pipelines.generation import GenerationSettings, fps_of, makes_video
    from dit_accel.session.presets import PRESETS

    plans = {name: name for name in preset or PRESET_NAMES}
    for name in plans:
        PRESETS.get(name)  # a misspelt one is an error before anything is loaded
    require_metrics()
    torch.set_num_threads(threads)
    tell(f"loading {model} ...")
    pipe = load_for_cli(model, device, dtype)
    samples = [(text, seed + number) for number, text in enumerate(prompt or demo_prompts(video=makes_video(pipe)))]
    tell(f"drawing {len(samples)} prompts plain, as {', '.join(plans)}, and plain with fewer steps ...")
    comparison = compare_plans(
        pipe,
        plans,
        samples,
        GenerationSettings(num_inference_steps=steps, guidance_scale=guidance),
        model=model,
        repeats=repeats,
        budget_s=BUDGET_S,
    )
    report_path = comparison.report.save(output)
    fps = fps_of(pipe, comparison.report.settings.num_frames or 1)
    pictures = save_side_by_side(comparison.report, comparison.images, output / "demo.png", fps=fps)
    if as_json:
        print_json(report_path.read_text(encoding="utf-8").rstrip())
    else:
        out().print(report_table(comparison.report))
        for note in comparison.report.notes:
            tell(f"note: {note}")
    tell(f"picture: {' and '.join(pictures)}\nreport:  {report_path}")


def demo_prompts(*, video: bool) -> tuple[str, ...]:
    """The first prompts of the list that ships for demonstrations: what the embedded pipelines draw well."""
    from dit_accel.prompts import load_prompts

    return load_prompts("demo", "video" if video else "image").prompts[:NUM_PROMPTS]
