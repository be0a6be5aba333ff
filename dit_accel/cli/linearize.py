"""``dit-accel linearize``: self-attention that costs as much as there are tokens, in layers that can bear it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from dit_accel.cli import distilling, options
from dit_accel.cli.console import out
from dit_accel.errors import ConfigError, did_you_mean


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
    density: Annotated[
        float, typer.Option(min=0, max=1, help="With sla: share of the blocks that are computed exactly.")
    ] = 0.1,
    match: Annotated[str, typer.Option(metavar="adm|mse", help="With linvideo: how the teacher is matched.")] = "adm",
    iterations: distilling.Iterations = 400,
    batch_size: distilling.BatchSize = 4,
    lr: distilling.LearningRate = None,
    rank: Annotated[int, typer.Option(min=1, help="Of the adapter.")] = 32,
    trajectories: distilling.Trajectories = 128,
    teacher_steps: distilling.TeacherSteps = None,
    guidance: options.Guidance = None,
    height: options.Height = None,
    width: options.Width = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Of a video.")] = None,
    prompts: distilling.Prompts = "auto",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Plan; default: RUN_DIR/plan.")
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Checkpoint, log, sheets. Default: outputs/linearize/NAME/METHOD-SHARE."),
    ] = None,
    resume: distilling.Resume = True,
    time_budget: distilling.TimeBudget = None,
    seed: distilling.Seed = 0,
    threads: distilling.Threads = None,
    device: options.Device = "auto",
    dtype: distilling.TrainDtype = "auto",
    base: distilling.Base = "fp32",
    checkpointing: distilling.Checkpointing = False,
) -> None:
    """Post-train a video pipeline so that layers of self-attention become linear, without data, and write a plan.

    Stopped at any time, the same command goes on where it was.

    Example: dit-accel linearize emoji-wan --layers 0.5
    """
    from dit_accel.families.targets import find_targets
    from dit_accel.passes.attention.routing import routable
    from dit_accel.training.distill.export_linear import export_linear
    from dit_accel.training.distill.methods import LINEAR

    if method not in LINEAR:
        raise ConfigError(
            f"--method must be one of {', '.join(LINEAR)}, got '{method}'.{did_you_mean(method, LINEAR)}"
        )
    if match not in ("adm", "mse"):
        raise ConfigError(f"--match must be adm or mse, got '{match}'")
    training = distilling.Training(
        model=model, iterations=iterations, batch_size=batch_size, lr=lr, rank=rank, trajectories=trajectories,
        teacher_steps=teacher_steps, guidance=guidance, height=height, width=width, frames=frames, prompts=prompts,
        resume=resume, time_budget=time_budget, seed=seed, threads=threads, device=device, dtype=dtype,
        base=base, checkpointing=checkpointing,
    )  # fmt: skip
    pipe, workers = training.load()
    count = sum(1 for target in find_targets(pipe) for _ in routable(target))
    settings: dict[str, Any] = {"density": density}
    if method == "linvideo":
        settings = {"linear": round(layers * count), "match": match}
    share = f"{layers:g}" if method == "linvideo" else f"{density:g}"
    folder = run_dir or Path("outputs/linearize") / training.name / f"{method}-{share}"
    trainer = training.train(pipe, training.job(pipe, LINEAR[method], folder, settings), workers)
    if trainer is None:
        return
    plan = export_linear(trainer, output or folder / "plan", name=f"{training.name}-{method}-{share}")
    linear = getattr(plan.passes[1], "layers", ())
    out().print(f"Plan: {output or folder / 'plan'}", markup=False)
    if method == "linvideo":
        out().print(f"{len(linear)} of {count} layers: {', '.join(linear)}", markup=False)
