"""``dit-accel linearize``: self-attention that costs as much as there are tokens, in layers that can bear it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from dit_accel.cli import options
from dit_accel.cli.console import out, tell
from dit_accel.cli.distill import log_to_stderr
from dit_accel.errors import ConfigError


def linearize_command(
    model: Annotated[
        str, typer.Argument(metavar="NAME|FOLDER|HUB-ID", help="A Wan pipeline: emoji-wan, a folder, or a hub id.")
    ],
    method: Annotated[str, typer.Option(metavar="linvideo|sla", help="Chosen layers linear, or all sparse.")] = (
        "linvideo"
    ),
    layers: Annotated[
        float, typer.Option(min=0, max=1, help="With linvideo: share of the layers that become linear.")
    ] = 0.5,
    density: Annotated[float, typer.Option(help="With sla: share of the blocks that are computed exactly.")] = 0.1,
    match: Annotated[str, typer.Option(metavar="adm|mse", help="With linvideo: how the teacher is matched.")] = "adm",
    iterations: Annotated[int, typer.Option(min=1, help="Training steps.")] = 400,
    batch_size: Annotated[int, typer.Option(min=1, help="Videos a training step.")] = 4,
    lr: Annotated[float | None, typer.Option(help="Learning rate. Default: the method's.")] = None,
    rank: Annotated[int, typer.Option(min=1, help="Of the adapter.")] = 32,
    trajectories: Annotated[int, typer.Option(min=1, help="Of the teacher, solved once before training.")] = 128,
    teacher_steps: Annotated[int | None, typer.Option(min=1, help="Of each. Default: the pipeline's own.")] = None,
    guidance: options.Guidance = None,
    height: options.Height = None,
    width: options.Width = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Of a video.")] = None,
    prompts: Annotated[
        str, typer.Option(metavar="auto|train|search|FILE", help="What the teacher draws; a file has one a line.")
    ] = "auto",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Plan; default: RUN_DIR/plan.")
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Checkpoint, log, sheets. Default: outputs/linearize/NAME/METHOD-SHARE."),
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
    """Post-train a video pipeline so that layers of self-attention become linear, without data, and write a plan.

    Stopped at any time, the same command goes on where it was.

    Example: dit-accel linearize emoji-wan --layers 0.5
    """
    import torch

    from dit_accel.cli.model import load_for_cli
    from dit_accel.families.targets import find_targets
    from dit_accel.passes.attention.routing import routable
    from dit_accel.pipelines.generation import makes_video
    from dit_accel.training.distill.export_linear import export_linear
    from dit_accel.training.distill.guidance import Guidance
    from dit_accel.training.distill.methods import LINEAR
    from dit_accel.training.distill.prompts import teacher_prompts
    from dit_accel.training.distill.roles import AdapterConfig
    from dit_accel.training.distill.run import DistillJob, build_trainer, call_default
    from dit_accel.training.distill.workers import Workers
    from dit_accel.training.loop import LoopConfig

    if method not in LINEAR:
        raise ConfigError(f"--method must be one of {', '.join(LINEAR)}, got '{method}'")
    if dtype not in ("bf16", "fp32"):
        raise ConfigError(f"--dtype must be bf16 or fp32, got '{dtype}'")
    if threads:
        torch.set_num_threads(threads)
    log_to_stderr()
    tell(f"loading {model} ...")
    workers = Workers.from_environment()
    pipe = load_for_cli(model, workers.device(device), "float32")
    count = sum(1 for target in find_targets(pipe) for _ in routable(target))
    settings: dict[str, Any] = {"density": density}
    if method == "linvideo":
        settings = {"linear": round(layers * count), "steps": iterations, "match": match}
    name = Path(model).resolve().name if Path(model).exists() else model
    share = f"{layers:g}" if method == "linvideo" else f"{density:g}"
    folder = run_dir or Path("outputs/linearize") / name.replace("/", "--") / f"{method}-{share}"
    steps = teacher_steps or call_default(pipe, "num_inference_steps", 20)
    job = DistillJob(
        method=method,
        steps=(steps,),
        loop=LoopConfig(
            steps=iterations, batch_size=batch_size, lr=lr or LINEAR[method].lr, warmup_steps=max(1, iterations // 20),
            ema_decay=min(0.999, 1 - 10 / (iterations + 10)),
        ),
        run_dir=folder,
        trajectories_dir=folder.parent / f"trajectories-{seed}",
        trajectories=trajectories,
        teacher_steps=steps,
        guidance=Guidance(call_default(pipe, "guidance_scale", 1.0) if guidance is None else guidance),
        adapter=AdapterConfig(rank=rank),
        height_px=height,
        width_px=width,
        frames=frames,
        options=settings,
        seed=seed,
        dtype=torch.bfloat16 if dtype == "bf16" else torch.float32,
    )  # fmt: skip
    trainer = build_trainer(pipe, teacher_prompts(prompts, model, video=makes_video(pipe)), job, workers)
    if resume:
        trainer.load()
    trainer.run(time_budget)
    if not workers.is_main:
        return
    if not trainer.finished:
        tell(f"Stopped at {trainer.step} of {iterations}; the same command goes on there.")
    plan = export_linear(trainer, output or folder / "plan", name=f"{name}-{method}-{share}")
    linear = getattr(plan.passes[1], "layers", ())
    out().print(f"Plan: {output or folder / 'plan'}", markup=False)
    out().print(f"{len(linear)} of {count} layers: {', '.join(linear)}", markup=False)
