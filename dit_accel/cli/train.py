"""``dit-accel train-embedded``: trains a pipeline that ships with the library."""

import dataclasses
import logging
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.logging import RichHandler

from dit_accel.cli.console import err, out, tell
from dit_accel.errors import ConfigError

if TYPE_CHECKING:
    from dit_accel.training.recipe import EmbeddedRecipe

SAMPLES = 24


class Stage(str, Enum):
    """What to do; ``measure`` measures the saved pipeline and writes its model card."""

    all = "all"
    vae = "vae"
    denoiser = "denoiser"
    guidance = "guidance"
    decoder = "decoder"
    measure = "measure"


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
    stage: Annotated[
        Stage, typer.Option(help="Do one stage only; each reads what earlier ones left. measure needs the extra eval.")
    ] = Stage.all,
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

    from dit_accel.loading import pick_device
    from dit_accel.training.data import default_cache_dir
    from dit_accel.training.pretrain import STAGES, RunOptions, assemble, train_embedded
    from dit_accel.training.recipes import get_recipe
    from dit_accel.training.release import export_release, measure_release
    from dit_accel.training.samples import spread
    from dit_accel.training.training_set import load_training_set

    _log_to_stderr()
    if threads:
        torch.set_num_threads(threads)
    where = pick_device(device)
    recipe = get_recipe(name, ("cpu" if where.type == "cpu" else "gpu") if size is Size.auto else size.value)
    if steps is not None:
        recipe = _with_steps(recipe, stage, steps)
    data_dir = data_dir or default_cache_dir()
    options = RunOptions(
        run_dir=run_dir or data_dir / "runs" / name,
        device=where,
        dtype=torch.bfloat16 if dtype is TrainDtype.bf16 else torch.float32,
        resume=resume,
        max_minutes=max_minutes,
        compile_modules=compile_modules,
    )
    output = output or options.run_dir / "final"
    train, held_out = (load_training_set(recipe, data_dir, held_out=test) for test in (False, True))
    tell(f"{name}: {len(train.images)} images of {len({c.name for c in train.concepts})} concepts, on {where}")
    if stage is not Stage.measure:
        pipe = train_embedded(recipe, train, options, STAGES if stage is Stage.all else [stage.value])
        if pipe is None:
            tell(f"The pipeline is not complete yet; what there is lies in {options.run_dir}. Run again to go on.")
            return
        export_release(pipe, recipe, spread(train.captions(), SAMPLES), output)
        out().print(f"Saved to {output}")
    if stage in (Stage.all, Stage.measure):
        measure_release(assemble(options.run_dir).to(where), recipe, train, held_out, options.run_dir, output)
        out().print(f"Measured: {output / 'report.json'}")


def _with_steps(recipe: "EmbeddedRecipe", stage: Stage, steps: int) -> "EmbeddedRecipe":
    field = f"{stage.value}_loop"
    loop = getattr(recipe, field, None)
    if loop is None:
        raise ConfigError(f"--steps changes the length of one training stage, which '--stage {stage.value}' is not.")
    return dataclasses.replace(recipe, **{field: dataclasses.replace(loop, steps=steps)})


def _log_to_stderr() -> None:
    handler = RichHandler(console=err(), show_path=False, show_level=False)
    logger = logging.getLogger("dit_accel")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
