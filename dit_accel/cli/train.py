"""``dit-accel train-embedded``: trains a pipeline that ships with the library."""

import dataclasses
import logging
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

from dit_accel.errors import ConfigError

LOG_WIDTH = 140  # of a log that goes to a file


class Stage(str, Enum):
    """What to train."""

    all = "all"
    vae = "vae"
    denoiser = "denoiser"
    decoder = "decoder"


class Size(str, Enum):
    """Which recipe of the pipeline."""

    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"


class TrainDtype(str, Enum):
    """Type of the matrix products in training."""

    bf16 = "bf16"
    fp32 = "fp32"


def train_embedded_command(
    name: Annotated[str, typer.Argument(help="Embedded pipeline to train, for example emoji-pixart.")],
    output: Annotated[
        Path | None,
        typer.Option(help="Save the finished pipeline here (fp16, diffusers format); default RUN_DIR/final."),
    ] = None,
    stage: Annotated[Stage, typer.Option(help="Train one stage only; each reads what earlier ones left.")] = Stage.all,
    size: Annotated[
        Size,
        typer.Option(help="cpu: one style, small; gpu: three styles, 12 blocks, 256 tokens; auto: by the device."),
    ] = Size.auto,
    resume: Annotated[
        bool, typer.Option(help="Continue from the checkpoints in RUN_DIR, exactly; --no-resume starts stages afresh.")
    ] = True,
    max_minutes: Annotated[
        float | None, typer.Option(help="Stop a stage with a checkpoint after this many minutes.", min=0)
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Override the steps of the chosen --stage (its learning-rate curve follows).", min=1),
    ] = None,
    device: Annotated[str, typer.Option(help="Where to train: auto, cpu, cuda, cuda:1, ...")] = "auto",
    dtype: Annotated[TrainDtype, typer.Option(help="bf16 autocast, or fp32 throughout.")] = TrainDtype.bf16,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the downloads; default $DIT_ACCEL_CACHE or ~/.cache/dit-accel.")
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Folder of checkpoints, logs and sample sheets; default DATA_DIR/runs/NAME.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; default all.", min=1)] = None,
    compile_modules: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Use torch.compile: a minute at the start, then faster.")
    ] = True,
) -> None:
    """Train an embedded pipeline: fetch the data, train tokenizer, VAE, text encoder and denoiser, and save it."""
    import torch

    from dit_accel.training.data import attribution_text, default_cache_dir
    from dit_accel.training.export import export_pipeline
    from dit_accel.training.pretrain import STAGES, RunOptions, load_training_set, train_embedded
    from dit_accel.training.recipes import get_recipe

    console = Console()
    if not console.is_terminal:
        console = Console(width=LOG_WIDTH)
    _log_to(console)
    if threads:
        torch.set_num_threads(threads)
    where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    recipe = get_recipe(name, ("cpu" if where.type == "cpu" else "gpu") if size is Size.auto else size.value)
    if steps is not None:
        if stage is Stage.all:
            raise ConfigError("--steps needs --stage: each stage has a length of its own.")
        loop = getattr(recipe, f"{stage.value}_loop")
        recipe = dataclasses.replace(recipe, **{f"{stage.value}_loop": dataclasses.replace(loop, steps=steps)})
    data_dir = data_dir or default_cache_dir()
    options = RunOptions(
        run_dir=run_dir or data_dir / "runs" / name,
        device=where,
        dtype=torch.bfloat16 if dtype is TrainDtype.bf16 else torch.float32,
        resume=resume,
        max_minutes=max_minutes,
        compile_modules=compile_modules,
    )
    data = load_training_set(recipe, data_dir)
    console.print(f"{name}: {len(data.images)} images of {len({c.name for c in data.concepts})} concepts, on {where}")
    pipe = train_embedded(recipe, data, options, STAGES if stage is Stage.all else [stage.value])
    if pipe is None:
        console.print(
            f"The pipeline is not complete yet; what there is lies in {options.run_dir}. Run again to go on."
        )
        return
    output = output or options.run_dir / "final"
    export_pipeline(pipe, output)
    (output / "ATTRIBUTION.txt").write_text(attribution_text(recipe.styles))
    console.print(f"Saved to {output}")


def _log_to(console: Console) -> None:
    handler = RichHandler(console=console, show_path=False, show_level=False)
    logger = logging.getLogger("dit_accel")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
