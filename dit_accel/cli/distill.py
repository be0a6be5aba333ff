"""``dit-accel distill``: a student of a flow-matching pipeline that draws in one to a few steps."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dit_accel.cli import distilling, options
from dit_accel.cli.console import out
from dit_accel.errors import ConfigError


def distill_command(
    model: Annotated[
        str,
        typer.Argument(metavar="NAME|FOLDER|HUB-ID", help="The teacher: an embedded pipeline, a folder, or a hub id."),
    ],
    method: Annotated[
        str, typer.Option(metavar="NAME", help="perflow, lcm, dmd2, mdt, scm, ladd or sana-sprint.")
    ] = "perflow",
    steps: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...",
            help="Numbers of steps of the student. Default: 1,2,4; with perflow, which takes one, 4.",
        ),
    ] = None,
    iterations: distilling.Iterations = 400,
    batch_size: distilling.BatchSize = 16,
    lr: distilling.LearningRate = None,
    rank: Annotated[int, typer.Option(min=0, help="Of the adapter; 0 trains a full copy.")] = 32,
    trajectories: distilling.Trajectories = 1024,
    teacher_steps: distilling.TeacherSteps = None,
    guidance: options.Guidance = None,
    height: options.Height = None,
    width: options.Width = None,
    prompts: distilling.Prompts = "auto",
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
    resume: distilling.Resume = True,
    time_budget: distilling.TimeBudget = None,
    seed: distilling.Seed = 0,
    threads: distilling.Threads = None,
    device: options.Device = "auto",
    dtype: distilling.TrainDtype = "auto",
    base: distilling.Base = "fp32",
    checkpointing: distilling.Checkpointing = False,
) -> None:
    """Distil a pipeline to few steps. No images are needed: the student learns from the teacher's own runs.

    Stopped at any time, the same command goes on where it was. The student is an adapter for load_lora_weights, and
    DistilledConfig.from_student(FOLDER) puts it into a plan.

    On several GPUs: accelerate launch -m dit_accel distill ...

    Example: dit-accel distill emoji-flux --method perflow --steps 4
    """
    from dit_accel.training.distill.export import export_student
    from dit_accel.training.distill.methods import LINEAR, get_method

    found, settings = get_method(method), _settings(sets or [])
    counts = found.default_steps if steps is None else _counts(steps)
    if method in LINEAR:
        raise ConfigError(f"'{method}' changes the attention, not the steps: dit-accel linearize --method {method}")
    training = distilling.Training(
        model=model, iterations=iterations, batch_size=batch_size, lr=lr, rank=rank, trajectories=trajectories,
        teacher_steps=teacher_steps, guidance=guidance, height=height, width=width, prompts=prompts, resume=resume,
        time_budget=time_budget, seed=seed, threads=threads, device=device, dtype=dtype,
        base=base, checkpointing=checkpointing,
    )  # fmt: skip
    pipe, workers = training.load()
    folder = run_dir or Path("outputs/distill") / training.name / method
    job = training.job(pipe, found, folder, settings, steps=counts, init=init)
    trainer = training.train(pipe, job, workers)
    if trainer is None:
        return
    more = {"model": model, "machine": distilling.machine(pipe.device)}
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
