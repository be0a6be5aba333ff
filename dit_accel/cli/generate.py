"""``dit-accel generate``: prompts to pictures or videos, accelerated."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dit_accel.cli import options
from dit_accel.cli.console import out, print_json, tell
from dit_accel.cli.output import Output
from dit_accel.cli.sharing import Parallel, ParallelMode, ParallelTimeout, ParallelWarmup, Sharing, traffic_words
from dit_accel.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from dit_accel.pipelines.generation import GenerationSettings
    from dit_accel.plan.plan import AccelerationPlan
    from dit_accel.session.limits import Limits

DEFAULT_PRESET = "balanced"
NO_PRESET = "none"


def generate_command(
    prompt: Annotated[list[str], typer.Argument(help="What to draw; several prompts give several results.")],
    model: options.Model = options.DEFAULT_MODEL,
    preset: Annotated[
        str | None,
        typer.Option(help=f"See `dit-accel presets list`; '{NO_PRESET}' runs plain. Default: {DEFAULT_PRESET}."),
    ] = None,
    plan: Annotated[
        str | None, typer.Option(metavar="FOLDER|FILE|HUB-ID", help="A saved plan, instead of a preset.")
    ] = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    seed: options.Seed = 0,
    num_images: Annotated[int, typer.Option(min=1, help="Pictures or videos of each prompt.")] = 1,
    height: options.Height = None,
    width: options.Width = None,
    frames: Annotated[
        int | None, typer.Option("--frames", min=1, help="Frames of a video. Default: the pipeline's own.")
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER|FILE",
            help="A folder, for .png or .mp4 files; or, for one result, a file: .png, .jpg or .webp for a picture, "
            ".mp4, .webp or .gif for a video.",
        ),
    ] = Path("outputs/generate"),
    zoom: Annotated[int, typer.Option(min=1, help="Write every pixel as ZOOM x ZOOM pixels.")] = 1,
    fps: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            max=240,
            help="Frames a second of a video file. Default: the pipeline's own frame rate where it has one, else 16, "
            "or 8 for a clip of up to 32 frames.",
        ),
    ] = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Also draw plain, and write a side-by-side picture (and video) and a report."),
    ] = False,
    max_lpips: Annotated[
        float | None,
        typer.Option(
            min=0, help="Instead of a preset: the fastest plan certified with a mean (ST-)LPIPS of at most this."
        ),
    ] = None,
    min_speedup: Annotated[
        float | None,
        typer.Option(min=1, help="Instead of a preset: the most faithful plan certified to be so many times faster."),
    ] = None,
    parallel: Parallel = 1,
    parallel_mode: ParallelMode = "stale",
    parallel_warmup: ParallelWarmup = 4,
    parallel_timeout: ParallelTimeout = 120.0,
    strict: options.Strict = False,
    as_json: options.Json = False,
) -> None:
    """Draw pictures or videos with an accelerated pipeline, and say how much work was really saved.

    Number k of a prompt has the seed SEED + k, whatever the other prompts are.

    Example: dit-accel generate "a red apple" "an owl" --preset fast --compare
    """
    from dit_accel.pipelines.generation import GenerationSettings
    from dit_accel.session.limits import Limits

    limits = Limits(max_lpips=max_lpips, min_speedup=min_speedup)
    if limits.given and (preset is not None or plan is not None):
        raise ConfigError(f"--preset or --plan and limits ({limits}) exclude each other: the limits choose the plan")
    chosen: str | AccelerationPlan | None = chosen_plan(preset, plan)
    if compare and chosen is None:
        raise ConfigError(f"--compare needs a plan to compare with the plain run, not --preset {NO_PRESET}")
    settings = GenerationSettings(
        num_inference_steps=steps, guidance_scale=guidance, height=height, width=width, num_frames=frames
    )
    samples = [(text, seed + number) for text in prompt for number in range(num_images)]
    target = Output(path=output, zoom=zoom, fps=fps)
    target.check(len(samples), compare=compare)
    sharing = Sharing(ranks=parallel, mode=parallel_mode, warmup=parallel_warmup, timeout_s=parallel_timeout)
    sharing.check(compare=compare)
    if compare:
        from dit_accel.evaluation.metrics.fidelity import require_metrics

        require_metrics()
    with sharing.joined(device) as rank:
        if rank == 0:
            tell(f"loading {model} ...")
        target = sharing.output(target, rank)
        pipe = _loaded(model, device, dtype)
        target.check_for(pipe)
        if limits.given:
            chosen = _within(limits, pipe, model)
        if parallel > 1:
            chosen = sharing.plan(None if chosen is None else as_path(chosen), pipe)
        quiet = as_json or rank > 0
        if compare and chosen is not None:
            result = _compared(pipe, chosen, samples, settings, model=model, target=target, strict=strict, quiet=quiet)
        else:
            result = _drawn(pipe, chosen, samples, settings, target=target, strict=strict, quiet=quiet)
        if rank > 0:
            return
        if parallel > 1:
            result["sent_bytes"] = sharing.traffic(pipe)
            if not quiet:
                tell(traffic_words(result["sent_bytes"]))
    if as_json:
        import json

        print_json(json.dumps({"model": model, "plan": _name(chosen), **result}, indent=1))
    else:
        for path in result["files"]:
            out().print(str(path), markup=False)


def _loaded(model: str, device: str, dtype: str) -> Any:
    from dit_accel.cli.model import load_for_cli

    return load_for_cli(model, device, dtype)


def _within(limits: "Limits", pipe: Any, model: str) -> "AccelerationPlan":
    """The plan that the limits choose for this pipeline."""
    from dit_accel.families.targets import find_targets
    from dit_accel.session.limits import choose_plan

    return choose_plan(limits, find_targets(pipe), model=model)


def _name(plan: "str | AccelerationPlan | None") -> str | None:
    return plan if plan is None or isinstance(plan, str) else plan.name


def chosen_plan(preset: str | None, plan: str | None) -> str | None:
    """The preset or plan asked for; ``None``: run plain."""
    from dit_accel.session.presets import PRESETS

    if preset is not None and plan is not None:
        raise ConfigError("--preset and --plan exclude each other: a preset is a plan by name")
    if plan is not None:
        from dit_accel.plan.plan import AccelerationPlan

        AccelerationPlan.from_pretrained(plan)  # a bad file is an error before anything is loaded
        return plan
    name = preset or DEFAULT_PRESET
    if name == NO_PRESET:
        return None
    PRESETS.get(name)
    return name


def _drawn(
    pipe: Any,
    plan: "str | AccelerationPlan | None",
    samples: list[tuple[str, int]],
    settings: "GenerationSettings",
    *,
    target: Output,
    strict: bool,
    quiet: bool,
) -> dict[str, Any]:
    """Draw one prompt after the other, accelerated."""
    from dit_accel.api import accelerate_pipeline, summary
    from dit_accel.pipelines.generation import generate, makes_video

    if plan is not None:
        accelerate_pipeline(pipe, as_path(plan), strict=strict)
    files = []
    for prompt in dict.fromkeys(text for text, _ in samples):
        seeds = [seed for text, seed in samples if text == prompt]
        made = generate(pipe, [prompt] * len(seeds), seeds, settings, batch_size=1 if makes_video(pipe) else None)
        files += target.save(pipe, made, [(prompt, seed) for seed in seeds])
    _tell_rounding(settings, made)
    result: dict[str, Any] = {"files": files}
    if plan is not None:
        from dit_accel.evaluation.compare.compare import effects_of

        seen = summary(pipe)
        effects = effects_of(seen)
        result |= {
            "certified": seen.certified,
            "notes": list(seen.notes),
            "effects": None if effects is None else effects.model_dump(),
        }
        if not quiet:
            tell(str(seen))
    return result


def _compared(
    pipe: Any,
    plan: "str | AccelerationPlan",
    samples: list[tuple[str, int]],
    settings: "GenerationSettings",
    *,
    model: str,
    target: Output,
    strict: bool,
    quiet: bool,
) -> dict[str, Any]:
    """Draw plain and accelerated in turn, and report the difference."""
    from dit_accel.cli.table import report_table
    from dit_accel.evaluation.compare.compare import PLAIN, compare_plans
    from dit_accel.evaluation.compare.pictures import save_side_by_side

    source = as_path(plan)
    name = source.stem if isinstance(source, Path) else source if isinstance(source, str) else source.name
    comparison = compare_plans(
        pipe,
        {name: source},
        samples,
        settings,
        model=model,
        repeats=3,
        batch_size=1,
        strict=strict,
    )
    made = comparison.images[name]
    _tell_rounding(settings, made)
    files = target.save(pipe, made, samples)
    files += target.save(pipe, comparison.images[PLAIN], samples, suffix="_plain")
    files += save_side_by_side(
        comparison.report, comparison.images, target.path / "compare.png", fps=target.fps_for(pipe, made)
    )
    report_path = comparison.report.save(target.path)
    if not quiet:
        out().print(report_table(comparison.report))
    return {
        "files": [*files, str(report_path)],
        "report": comparison.report.model_dump(mode="json"),
    }


def _tell_rounding(settings: "GenerationSettings", made: "torch.Tensor") -> None:
    if settings.num_frames not in (None, made.shape[1]):
        tell(f"note: made {made.shape[1]} frames, which is what the pipeline rounds {settings.num_frames} to")


def as_path(plan: "str | AccelerationPlan") -> "str | Path | AccelerationPlan":
    """A preset stays a name; a plan that is on this machine becomes a path, so that no preset's name hides it."""
    from dit_accel.session.presets import PRESETS

    if not isinstance(plan, str):
        return plan
    return plan if plan in PRESETS or not Path(plan).exists() else Path(plan)
