"""What ``distill`` and ``linearize`` share: their options, and the training that they make of them."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.logging import RichHandler

from dit_accel.cli.console import err, tell
from dit_accel.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from dit_accel.training.distill.methods import Method
    from dit_accel.training.distill.run import DistillJob
    from dit_accel.training.distill.trainer import DistillTrainer
    from dit_accel.training.distill.workers import Workers

Iterations = Annotated[int, typer.Option(min=1, help="Training steps.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples a training step.")]
LearningRate = Annotated[float | None, typer.Option(help="Learning rate of the student. Default: the method's.")]
Trajectories = Annotated[int, typer.Option(min=1, help="Of the teacher, solved once before training.")]
TeacherSteps = Annotated[int | None, typer.Option(min=1, help="Of each. Default: the pipeline's own.")]
Prompts = Annotated[
    str, typer.Option(metavar="auto|train|search|FILE", help="What the teacher draws; a file has one a line.")
]
Resume = Annotated[bool, typer.Option(help="Go on from the checkpoint in RUN_DIR, exactly.")]
TimeBudget = Annotated[
    float | None, typer.Option(min=0, help="Minutes of training; then it saves, and the next call goes on.")
]
Seed = Annotated[int, typer.Option(help="Of everything random.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; default all.")]
TrainDtype = Annotated[
    str, typer.Option(metavar="auto|bf16|fp32", help="Autocast, or fp32 throughout; auto: what the device is fast in.")
]
Base = Annotated[
    str,
    typer.Option(metavar="fp32|bf16", help="Of the frozen teacher; bf16 takes half the memory, and needs autocast."),
]
Checkpointing = Annotated[
    bool, typer.Option(help="Compute blocks again in the backward pass: less memory, more time, the same student.")
]

PROBE_STEPS = 50
_BASES = {"fp32": "float32", "bf16": "bfloat16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """The options that both commands have, as they were given; ``None`` is the pipeline's or the method's own.

    Raises:
        ConfigError: The type is unknown.
    """

    model: str
    iterations: int
    batch_size: int
    lr: float | None
    rank: int
    trajectories: int
    teacher_steps: int | None
    guidance: float | None
    height: int | None
    width: int | None
    prompts: str
    resume: bool
    time_budget: float | None
    seed: int
    threads: int | None
    device: str
    dtype: str
    base: str
    checkpointing: bool
    frames: int | None = None

    def __post_init__(self) -> None:
        if self.dtype not in ("auto", "bf16", "fp32"):
            raise ConfigError(f"--dtype must be auto, bf16 or fp32, got '{self.dtype}'")
        if self.base not in _BASES:
            raise ConfigError(f"--base must be fp32 or bf16, got '{self.base}'")
        if self.base == "bf16" and self.dtype == "fp32":
            raise ConfigError("--base bf16 needs autocast: --dtype bf16")

    @property
    def name(self) -> str:
        """Of the model, for a folder."""
        from dit_accel.pipelines.loading import folder_of_model

        return folder_of_model(self.model)

    def load(self) -> "tuple[Any, Workers]":
        """The teacher's pipeline, and the processes that train together."""
        import torch

        from dit_accel.cli.model import load_for_cli
        from dit_accel.training.distill.workers import Workers

        if self.threads:
            torch.set_num_threads(self.threads)
        _log_to_stderr()
        tell(f"loading {self.model} ...")
        workers = Workers.from_environment(self.device)
        return load_for_cli(self.model, workers.device(self.device), _BASES[self.base]), workers

    def job(
        self,
        pipe: Any,
        method: "Method",
        run_dir: Path,
        options: Mapping[str, Any],
        *,
        steps: tuple[int, ...] | None = None,
        init: Path | None = None,
    ) -> "DistillJob":
        """What is to be trained.

        Args:
            pipe: The teacher's.
            method: How.
            run_dir: Folder of checkpoint, log and sheets; trajectories lie beside it.
            options: Settings of the method.
            steps: Numbers of steps of the student; ``None``: the teacher's.
            init: Another student to begin with.
        """
        import torch

        from dit_accel.training.distill.guard import GuardConfig
        from dit_accel.training.distill.guidance import Guidance
        from dit_accel.training.distill.roles import AdapterConfig
        from dit_accel.training.distill.run import DistillJob, call_default
        from dit_accel.training.loop import LoopConfig
        from dit_accel.training.precision import training_dtype

        teacher_steps = self.teacher_steps or call_default(pipe, "num_inference_steps", 28)
        guidance = call_default(pipe, "guidance_scale", 1.0) if self.guidance is None else self.guidance
        return DistillJob(
            method=method.name,
            steps=steps or (teacher_steps,),
            loop=LoopConfig(
                steps=self.iterations, batch_size=self.batch_size, lr=self.lr or method.lr,
                warmup_steps=max(1, self.iterations // 20), ema_decay=min(0.999, 1 - 10 / (self.iterations + 10)),
                log_steps=min(50, max(1, self.iterations // 20)),
            ),
            run_dir=run_dir,
            trajectories_dir=run_dir.parent / f"trajectories-{self.seed}",
            trajectories=self.trajectories,
            teacher_steps=teacher_steps,
            guidance=Guidance(guidance),
            adapter=AdapterConfig(rank=self.rank),
            height_px=self.height,
            width_px=self.width,
            frames=self.frames,
            init=init,
            options=options,
            seed=self.seed,
            dtype=torch.bfloat16 if self.base == "bf16" else training_dtype(self.dtype, pipe.device),
            checkpointing=self.checkpointing,
            guard=GuardConfig(probe_steps=PROBE_STEPS if steps else 0),  # one step of a slow student says nothing
        )  # fmt: skip

    def train(self, pipe: Any, job: "DistillJob", workers: "Workers") -> "DistillTrainer | None":
        """Train, from the checkpoint if there is one; ``None`` in a process that writes no files."""
        from dit_accel.pipelines.generation import makes_video
        from dit_accel.training.distill.prompts import teacher_prompts
        from dit_accel.training.distill.run import build_trainer

        texts = teacher_prompts(self.prompts, self.model, video=makes_video(pipe))
        trainer = build_trainer(pipe, texts, job, workers)
        if self.resume:
            trainer.load()
        trainer.run(self.time_budget)
        if not workers.is_main:
            return None
        if not trainer.finished:
            tell(f"Stopped at {trainer.step} of {self.iterations}; the same command goes on there.")
        return trainer


def machine(device: "torch.device") -> str:
    """What trains, in words."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{threads} CPU thread{'' if threads == 1 else 's'}"


def _log_to_stderr() -> None:
    """Tell of the training on stderr."""
    logger = logging.getLogger("dit_accel")
    if not any(isinstance(handler, RichHandler) for handler in logger.handlers):
        logger.addHandler(RichHandler(console=err(), show_path=False, show_level=False))
    logger.setLevel(logging.INFO)
