"""``dit-accel train-embedded``: trains a pipeline that ships with the library."""

import dataclasses
import logging
import time
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.logging import RichHandler

from dit_accel.cli.console import err, out, tell
from dit_accel.errors import ConfigError

if TYPE_CHECKING:
    from dit_accel.training.recipe import EmbeddedRecipe


class Stage(str, Enum):
    """What to do; ``measure`` measures the saved pipeline and writes its model card."""

    all = "all"
    vae = "vae"
    warmup = "warmup"
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
    names: Annotated[
        list[str], typer.Argument(help="Embedded pipelines to train, for example emoji-pixart; 'all' is every one.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(help="Save the finished pipeline here (fp16, diffusers format); default RUN_DIR/final."),
    ] = None,
    stage: Annotated[
        Stage, typer.Option(help="Do one stage only; each reads what earlier ones left. measure needs the extra eval.")
    ] = Stage.all,
    size: Annotated[
        Size,
        typer.Option(help="cpu: one style, small; gpu: three styles, all concepts, larger; auto: by the device."),
    ] = Size.auto,
    resume: Annotated[
        bool,
        typer.Option(help="Skip finished stages and continue from the checkpoints in RUN_DIR, exactly."),
    ] = True,
    measure: Annotated[bool, typer.Option(help="When trained, measure and write the model card; extra eval.")] = True,
    time_budget: Annotated[
        float | None,
        typer.Option(help="Minutes for the whole command; then it saves and ends, and the next call goes on.", min=0),
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option(help="Stop each stage with a checkpoint after this many minutes.", min=0)
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Override the steps of the chosen --stage (its learning-rate curve follows).", min=1),
    ] = None,
    erw: Annotated[
        bool,
        typer.Option("--erw", help="Warm the first blocks up on image features before; PixArt, extra eval."),
    ] = False,
    steps_scale: Annotated[
        float, typer.Option(help="Multiply the steps of every stage, for a shorter or longer training.", min=0)
    ] = 1.0,
    device: Annotated[str, typer.Option(help="Where to train: auto, cpu, cuda, cuda:1, ...")] = "auto",
    dtype: Annotated[TrainDtype, typer.Option(help="bf16 autocast, or fp32 throughout.")] = TrainDtype.bf16,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of the downloads, or a --pack file; default $DIT_ACCEL_CACHE, ~/.cache/dit-accel."),
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Folder of checkpoints, logs and sample sheets; default DATA_DIR/runs/NAME.")
    ] = None,
    pack: Annotated[
        Path | None,
        typer.Option(help="Train nothing: write the data that these pipelines need into this file, for --data-dir."),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; default all.", min=1)] = None,
    compile_modules: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Use torch.compile: a minute at the start, then faster.")
    ] = True,
) -> None:
    """Train embedded pipelines: fetch the data, train tokenizer, VAE, text encoder and denoiser, and save each.

    With several names, --run-dir and --output are folders that hold a folder NAME each.
    """
    import torch

    from dit_accel.pipelines.loading import pick_device
    from dit_accel.training.data import default_cache_dir
    from dit_accel.training.progress import STAGES
    from dit_accel.training.recipes import get_recipe, scale_steps, with_erw
    from dit_accel.training.stage import RunOptions
    from dit_accel.training.zoo import ALL, TrainingJob, measure_job, order_names, pack_training_data, train_zoo

    start = time.monotonic()
    _log_to_stderr()
    if threads:
        torch.set_num_threads(threads)
    where = pick_device(device)
    size_name = ("cpu" if where.type == "cpu" else "gpu") if size is Size.auto else size.value
    recipes = [get_recipe(name, size_name) for name in order_names(names, size_name)]
    if erw:
        recipes = [with_erw(recipe) for recipe in recipes]
    if steps is not None:
        recipes = [_with_steps(recipe, stage, steps) for recipe in recipes]
    recipes = [scale_steps(recipe, steps_scale) for recipe in recipes]
    data_dir = data_dir or default_cache_dir()
    if pack is not None:
        pack_training_data(recipes, data_dir, pack)
        out().print(f"Packed into {pack}: {pack.stat().st_size / 1e6:.1f} MB")
        return

    several = len(names) > 1 or ALL in names
    if run_dir is None:
        run_dir = (default_cache_dir() if data_dir.is_file() else data_dir) / "runs" / ("" if several else names[0])
    jobs = []
    for recipe in recipes:
        folder = run_dir / recipe.name if several else run_dir
        options = RunOptions(
            run_dir=folder,
            device=where,
            dtype=torch.bfloat16 if dtype is TrainDtype.bf16 else torch.float32,
            resume=resume,
            max_minutes=max_minutes,
            deadline=None if time_budget is None else start + 60 * time_budget,
            compile_modules=compile_modules,
        )
        final = folder / "final" if output is None else output / recipe.name if several else output
        jobs.append(TrainingJob(recipe=recipe, options=options, output=final))
    if stage is Stage.measure:
        for job in jobs:
            measure_job(job, data_dir)
            out().print(f"Measured: {job.output / 'report.json'}")
        return

    left = []
    stages = STAGES if stage is Stage.all else [stage.value]
    for outcome in train_zoo(jobs, data_dir, stages=stages, measure=measure and stage is Stage.all):
        out().print(f"{outcome.name}: {outcome.message}")
        left += [] if outcome.finished else [outcome.name]
    if left:
        spent = time_budget is not None and jobs[0].options.out_of_time
        why = f"The time budget of {time_budget:g} min is spent. " if spent else ""
        tell(f"{why}Not finished: {', '.join(left)}. What there is lies in {run_dir}; the same command goes on there.")


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
