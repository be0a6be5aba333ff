"""``dit-accel distill``: a student of a flow-matching pipeline that draws in one to a few steps."""

import json
import logging
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.logging import RichHandler

from dit_accel.cli import options
from dit_accel.cli.console import err, out, tell
from dit_accel.errors import ConfigError


def distill_command(
    model: Annotated[
        str,
        typer.Argument(metavar="NAME|FOLDER|HUB-ID", help="The teacher: an embedded pipeline, a folder, or a hub id."),
    ],
    method: Annotated[
        str, typer.Option(metavar="NAME", help="perflow, lcm, dmd2, mdt, scm, ladd or sana-sprint.")
    ] = "perflow",
    steps: Annotated[str, typer.Option(metavar="N,N,...", help="Numbers of steps of the student.")] = "1,2,4",
    iterations: Annotated[int, typer.Option(min=1, help="Training steps.")] = 400,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples a training step.")] = 16,
    lr: Annotated[float | None, typer.Option(help="Learning rate of the student. Default: the method's.")] = None,
    rank: Annotated[int, typer.Option(min=0, help="Of the adapter; 0 trains a full copy.")] = 32,
    trajectories: Annotated[int, typer.Option(min=1, help="Of the teacher, solved once before training.")] = 1024,
    teacher_steps: Annotated[int | None, typer.Option(min=1, help="Of each. Default: the pipeline's own.")] = None,
    guidance: options.Guidance = None,
    height: options.Height = None,
    width: options.Width = None,
    prompts: Annotated[
        str, typer.Option(metavar="auto|train|search|FILE", help="What the teacher draws; a file has one a line.")
    ] = "auto",
    init: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Begin with another student of the same rank.")
    ] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the method, in JSON.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="For the student. Default: RUN_DIR/student."),
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Checkpoint, log and sheets. Default: outputs/distill/NAME/METHOD."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoint in RUN_DIR, exactly.")] = True,
    time_budget: Annotated[
        float | None, typer.Option(min=0, help="Minutes of training; then it saves, and the next call goes on.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default all.")] = None,
    device: options.Device = "auto",
    dtype: Annotated[str, typer.Option(metavar="bf16|fp32", help="Autocast, or fp32 throughout.")] = "bf16",
) -> None:
    """Distil a pipeline to few steps. No images are needed: the student learns from the teacher's own runs.

    Stopped at any time, the same command goes on where it was. The student is an adapter for load_lora_weights, and
    DistilledConfig.from_student(FOLDER) puts it into a plan.

    On several GPUs: accelerate launch -m dit_accel distill ...

    Example: dit-accel distill emoji-flux --method perflow --steps 4
    """
    import torch

    from dit_accel.cli.model import load_for_cli
    from dit_accel.pipelines.generation import makes_video
    from dit_accel.training.distill.export import export_student
    from dit_accel.training.distill.guidance import Guidance
    from dit_accel.training.distill.methods import get_method
    from dit_accel.training.distill.prompts import teacher_prompts
    from dit_accel.training.distill.roles import AdapterConfig
    from dit_accel.training.distill.run import DistillJob, build_trainer, call_default
    from dit_accel.training.distill.workers import Workers
    from dit_accel.training.loop import LoopConfig

    found = get_method(method)
    counts = _counts(steps)
    if dtype not in ("bf16", "fp32"):
        raise ConfigError(f"--dtype must be bf16 or fp32, got '{dtype}'")
    if threads:
        torch.set_num_threads(threads)
    log_to_stderr()
    tell(f"loading {model} ...")
    workers = Workers.from_environment()
    pipe = load_for_cli(model, workers.device(device), "float32")
    name = Path(model).resolve().name if Path(model).exists() else model
    folder = run_dir or Path("outputs/distill") / name.replace("/", "--") / method
    job = DistillJob(
        method=method,
        steps=counts,
        loop=LoopConfig(
            steps=iterations, batch_size=batch_size, lr=lr or found.lr, warmup_steps=max(1, iterations // 20),
            ema_decay=min(0.999, 1 - 10 / (iterations + 10)),
        ),
        run_dir=folder,
        trajectories_dir=folder.parent / f"trajectories-{seed}",
        trajectories=trajectories,
        teacher_steps=teacher_steps or call_default(pipe, "num_inference_steps", 28),
        guidance=Guidance(call_default(pipe, "guidance_scale", 1.0) if guidance is None else guidance),
        adapter=AdapterConfig(rank=rank),
        height_px=height,
        width_px=width,
        init=init,
        options=_settings(sets or []),
        seed=seed,
        dtype=torch.bfloat16 if dtype == "bf16" else torch.float32,
    )  # fmt: skip
    texts = teacher_prompts(prompts, model, video=makes_video(pipe))
    trainer = build_trainer(pipe, texts, job, workers)
    if resume:
        trainer.load()
    trainer.run(time_budget)
    if not workers.is_main:
        return
    if not trainer.finished:
        tell(f"Stopped at {trainer.step} of {iterations}; the same command goes on there.")
    more = {"model": model, "trajectories": trajectories, "batch_size": batch_size, "rank": rank, "seed": seed}
    student = export_student(trainer, pipe, output or folder / "student", steps=counts, more=more)
    out().print(f"Student: {student}", markup=False)


def _counts(text: str) -> tuple[int, ...]:
    try:
        found = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        found = ()
    if not found or found[0] < 1:
        raise ConfigError(f"--steps must be whole numbers of 1 or more, such as 1,2,4; got '{text}'")
    return found


def _settings(pairs: list[str]) -> dict[str, Any]:
    settings = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        try:
            settings[key] = json.loads(value)
        except json.JSONDecodeError:
            settings[key] = value
        if not sign or not key:
            raise ConfigError(f"--set takes KEY=VALUE, got '{pair}'")
    return settings


def log_to_stderr() -> None:
    """Tell of the training on stderr."""
    logger = logging.getLogger("dit_accel")
    if not any(isinstance(handler, RichHandler) for handler in logger.handlers):
        logger.addHandler(RichHandler(console=err(), show_path=False, show_level=False))
    logger.setLevel(logging.INFO)
