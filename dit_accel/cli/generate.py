"""``dit-accel generate``: prompts to pictures, accelerated."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dit_accel.cli import options
from dit_accel.cli.console import out, print_json, tell
from dit_accel.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from dit_accel.generation import GenerationSettings

DEFAULT_PRESET = "balanced"
NO_PRESET = "none"


def generate_command(
    prompt: Annotated[list[str], typer.Argument(help="What to draw; several prompts give several pictures.")],
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
    num_images: Annotated[int, typer.Option(min=1, help="Pictures of each prompt.")] = 1,
    height: options.Height = None,
    width: options.Width = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.")] = Path(
        "outputs/generate"
    ),
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Also draw plain, and write a side-by-side picture and a report."),
    ] = False,
    strict: options.Strict = False,
    as_json: options.Json = False,
) -> None:
    """Draw pictures with an accelerated pipeline, and say how much work was really saved.

    Picture k of a prompt has the seed SEED + k, whatever the other prompts are.

    Example: dit-accel generate "a red apple" "an owl" --preset fast --compare
    """
    from dit_accel.generation import GenerationSettings

    chosen = _chosen_plan(preset, plan)
    if compare and chosen is None:
        raise ConfigError(f"--compare needs a plan to compare with the plain run, not --preset {NO_PRESET}")
    settings = GenerationSettings(num_inference_steps=steps, guidance_scale=guidance, height=height, width=width)
    samples = [(text, seed + number) for text in prompt for number in range(num_images)]
    if compare:
        from dit_accel.evaluation.fidelity import require_metrics

        require_metrics()
    from dit_accel.cli.model import load_for_cli

    tell(f"loading {model} ...")
    pipe = load_for_cli(model, device, dtype)
    if compare and chosen is not None:
        result = _compared(pipe, chosen, samples, settings, model=model, output=output, strict=strict, quiet=as_json)
    else:
        result = _drawn(pipe, chosen, samples, settings, output=output, strict=strict, quiet=as_json)
    if as_json:
        import json

        print_json(json.dumps({"model": model, "plan": chosen, **result}, indent=1))
    else:
        for path in result["files"]:
            out().print(str(path), markup=False)


def _chosen_plan(preset: str | None, plan: str | None) -> str | None:
    """The preset or plan asked for; ``None``: run plain."""
    from dit_accel.presets import PRESETS

    if preset is not None and plan is not None:
        raise ConfigError("--preset and --plan exclude each other: a preset is a plan by name")
    if plan is not None:
        from dit_accel.plan import AccelerationPlan

        AccelerationPlan.from_pretrained(plan)  # a bad file is an error before anything is loaded
        return plan
    name = preset or DEFAULT_PRESET
    if name == NO_PRESET:
        return None
    PRESETS.get(name)
    return name


def _drawn(
    pipe: Any,
    plan: str | None,
    samples: list[tuple[str, int]],
    settings: "GenerationSettings",
    *,
    output: Path,
    strict: bool,
    quiet: bool,
) -> dict[str, Any]:
    """Draw one prompt after the other, accelerated."""
    from dit_accel.api import accelerate_pipeline, summary
    from dit_accel.generation import generate_images

    if plan is not None:
        accelerate_pipeline(pipe, _as_path(plan), strict=strict)
    files = []
    for prompt in dict.fromkeys(text for text, _ in samples):
        seeds = [seed for text, seed in samples if text == prompt]
        images = generate_images(pipe, [prompt] * len(seeds), seeds, settings)
        files += _save(images, [(prompt, seed) for seed in seeds], output)
    result: dict[str, Any] = {"files": files}
    if plan is not None:
        from dit_accel.evaluation.compare import reuse_of

        seen = summary(pipe)
        reuse = reuse_of(seen)
        result |= {
            "certified": seen.certified,
            "notes": list(seen.notes),
            "reuse": None if reuse is None else reuse.model_dump(),
        }
        if not quiet:
            tell(str(seen))
    return result


def _compared(
    pipe: Any,
    plan: str,
    samples: list[tuple[str, int]],
    settings: "GenerationSettings",
    *,
    model: str,
    output: Path,
    strict: bool,
    quiet: bool,
) -> dict[str, Any]:
    """Draw plain and accelerated in turn, and report the difference."""
    from dit_accel.cli.table import report_table
    from dit_accel.evaluation.compare import PLAIN, compare_plans
    from dit_accel.evaluation.pictures import side_by_side

    name = plan if _as_path(plan) == plan else Path(plan).stem
    comparison = compare_plans(
        pipe,
        {name: _as_path(plan)},
        samples,
        settings,
        model=model,
        repeats=3,
        batch_size=1,
        strict=strict,
    )
    files = _save(comparison.images[name], samples, output)
    files += _save(comparison.images[PLAIN], samples, output, suffix="_plain")
    report_path = comparison.report.save(output)
    picture_path = output / "compare.png"
    side_by_side(comparison.report, comparison.images).save(picture_path)
    if not quiet:
        out().print(report_table(comparison.report))
    return {
        "files": [*files, str(picture_path), str(report_path)],
        "report": comparison.report.model_dump(mode="json"),
    }


def _as_path(plan: str) -> str | Path:
    """A preset stays a name; a plan that is on this machine becomes a path, so that no preset's name hides it."""
    from dit_accel.presets import PRESETS

    return plan if plan in PRESETS or not Path(plan).exists() else Path(plan)


def _save(images: "torch.Tensor", samples: list[tuple[str, int]], folder: Path, *, suffix: str = "") -> list[str]:
    from dit_accel.evaluation.pictures import to_pil

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for image, (prompt, seed) in zip(images, samples, strict=True):
        paths.append(str(folder / f"{_slug(prompt)}_seed{seed}{suffix}.png"))
        to_pil(image).save(paths[-1])
    return paths


def _slug(prompt: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "picture"
