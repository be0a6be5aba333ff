"""A distillation from beginning to end: trajectories, roles, objective, training, and what is written in the end."""

import hashlib
import inspect
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from dit_accel.errors import ConfigError
from dit_accel.training.distill.backbone import Backbone, take
from dit_accel.training.distill.checkpointing import enable_checkpointing
from dit_accel.training.distill.export import LORA_FILE, load_weights
from dit_accel.training.distill.guard import GuardConfig
from dit_accel.training.distill.guidance import Guidance
from dit_accel.training.distill.methods import get_method
from dit_accel.training.distill.objectives.base import DistillObjective
from dit_accel.training.distill.objectives.setting import Setting
from dit_accel.training.distill.roles import STUDENT, AdapterConfig, Roles
from dit_accel.training.distill.sampling import sample_latents
from dit_accel.training.distill.sheets import decode
from dit_accel.training.distill.trainer import DistillTrainer
from dit_accel.training.distill.trajectories import hash_of, model_of, noise_of, solve_trajectories
from dit_accel.training.distill.workers import Workers
from dit_accel.training.loop import LoopConfig
from dit_accel.training.samples import save_sheet

logger = logging.getLogger("dit_accel")

SHEET_PROMPTS, SHEET_SEED = 8, 77
PROBE_SAMPLES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillJob:
    """What to distil and how.

    Attributes:
        method: One of ``METHODS``.
        steps: Numbers of steps that the student is to run at.
        loop: Length, rates and intervals.
        run_dir: Folder of checkpoint, log and sheets.
        trajectories_dir: Folder of the teacher's trajectories; methods may share it.
        trajectories: How many.
        teacher_steps: Of each.
        guidance: Of the teacher, folded into the student.
        adapter: Rank and targets.
        init: Folder of another student of the same rank to begin with; ``None``: the teacher.
        options: Fields of the method's config that are not the defaults.
        seed: Of everything random.
        dtype: Autocast type.
        checkpointing: Compute the blocks again in the backward pass: a third slower, and their memory is saved.
        height_px: Of what is drawn in training; ``None``: as in a plain call of the pipeline. So are the others.
        width_px: Likewise.
        frames: Of a video.
        guard: When to roll back.
    """

    method: str
    steps: tuple[int, ...]
    loop: LoopConfig
    run_dir: Path
    trajectories_dir: Path
    trajectories: int = 512
    teacher_steps: int = 28
    guidance: Guidance = field(default_factory=lambda: Guidance(3.5))
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    init: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    dtype: torch.dtype = torch.float32
    checkpointing: bool = False
    height_px: int | None = None
    width_px: int | None = None
    frames: int | None = None
    guard: GuardConfig = field(default_factory=GuardConfig)

    def __post_init__(self) -> None:
        if not self.steps or any(step < 1 for step in self.steps):
            raise ConfigError(f"a student runs at one step or more, got {self.steps}")
        get_method(self.method).check(self.steps, self.teacher_steps, self.options)


def build_trainer(
    pipe: DiffusionPipeline, prompts: Sequence[str], job: DistillJob, workers: Workers | None = None
) -> DistillTrainer:
    """Solve or read the trajectories, give out the roles, and set up the trainer; nothing is trained yet.

    Args:
        pipe: The teacher; it gets the student's adapters.
        prompts: What the teacher is asked to draw.
        job: What to do.
        workers: Processes that train together.

    Raises:
        ConfigError: The teacher is in half precision, and the method or the job calls it without autocast.
    """
    method = get_method(job.method)
    backbone = Backbone.of(pipe, height_px=job.height_px, width_px=job.width_px, frames=job.frames)
    _check_base(backbone, job)
    solved = solve_trajectories(
        backbone, prompts, job.trajectories_dir, count=job.trajectories, steps=job.teacher_steps,
        guidance=job.guidance, seed=job.seed, dtype=job.dtype, workers=workers,
    )  # fmt: skip
    init = None if job.init is None else load_weights(job.init)
    identity = identity_of(job, backbone, prompts)
    roles = Roles(backbone.denoiser, method.roles, job.adapter, job.seed)
    if init is not None:
        roles.load(STUDENT, init)
    setting = Setting(
        backbone=backbone, roles=roles, trajectories=solved, batch_size=job.loop.batch_size, guidance=job.guidance,
        iterations=job.loop.steps, dtype=job.dtype, folded=method.folded,
    )  # fmt: skip
    try:
        objective = method.make(setting, job.steps, job.options)
    except TypeError as error:
        raise ConfigError(f"'{job.method}' does not know that setting: {error}") from error
    if job.checkpointing:
        enable_checkpointing(roles, objective)
    return DistillTrainer(
        objective, roles, job.loop, run_dir=job.run_dir, identity=identity, seed=job.seed,
        lr_of=dict(method.lr_of or {}), guard=job.guard, probe=_probe(setting, objective),
        sample_fn=_sheets(setting, objective, job), workers=workers,
    )  # fmt: skip


def _check_base(backbone: Backbone, job: DistillJob) -> None:
    """Half-precision weights need autocast in every call, and float32 differences of outputs have none."""
    base = next(backbone.denoiser.parameters()).dtype
    if base == torch.float32:
        return
    if get_method(job.method).exact:
        raise ConfigError(f"'{job.method}' differentiates the network in float32; the teacher is in {base}")
    if job.dtype == torch.float32:
        raise ConfigError(f"a teacher in {base} is trained under autocast, and that is off (dtype float32)")


def identity_of(job: DistillJob, backbone: Backbone, prompts: Sequence[str]) -> dict[str, Any]:
    """All that the weights of a training hang on, by the names of options, as JSON data."""
    found = {
        "teacher": model_of(backbone), "prompts": hash_of(prompts), "size": list(backbone.latent_shape),
        "time_shift": backbone.schedule.shift, "method": job.method, "steps": list(job.steps),
        "iterations": job.loop.steps, "batch_size": job.loop.batch_size, "lr": job.loop.lr, "rank": job.adapter.rank,
        "alpha": job.adapter.alpha, "targets": list(job.adapter.targets), "init": _told_init(job.init),
        "set": dict(job.options), "trajectories": job.trajectories, "teacher_steps": job.teacher_steps,
        "guidance": job.guidance.scale, "seed": job.seed, "dtype": str(job.dtype).removeprefix("torch."),
        "base": str(backbone.denoiser.dtype).removeprefix("torch."),
    }  # fmt: skip
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def _told_init(folder: Path | None) -> str | None:
    """Another student by its name and its weights."""
    if folder is None:
        return None
    digest = hashlib.sha256((folder / LORA_FILE).read_bytes()).hexdigest()[:8]
    return f"{folder.parent.name if folder.name == 'student' else folder.name} ({digest})"


def _sheets(setting: Setting, objective: DistillObjective, job: DistillJob) -> Any:
    """A sheet: first trajectories' ends, then what the student makes of their noise in each number of steps."""
    solved, backbone = setting.trajectories, setting.backbone
    count = min(SHEET_PROMPTS, len(solved))
    text = {name: rows.to(setting.device) for name, rows in take(solved.text, solved.rows[:count]).items()}
    noise, ends = (solved.at(torch.arange(count), place).to(setting.device) for place in (0, -1))

    def draw(step: int) -> None:
        rows = [decode(backbone, ends)]
        for steps in job.steps:
            generator = torch.Generator().manual_seed(SHEET_SEED)
            with objective.acting():
                latents = sample_latents(
                    setting, STUDENT, noise, text, steps, renoise=objective.renoise, generator=generator
                )
            rows.append(decode(backbone, latents))
        save_sheet(torch.cat(rows), job.run_dir / f"{objective.name}-{step:06d}.png", columns=count, zoom=2)

    return draw


def _probe(setting: Setting, objective: DistillObjective) -> Any:
    """Mean distance between one-step samples of some prompts, as a share of the teacher's."""
    solved = setting.trajectories
    count = min(PROBE_SAMPLES, len(solved))
    text = {name: rows.to(setting.device) for name, rows in take(solved.text, solved.rows[:count]).items()}
    noise = torch.stack([noise_of(number, 0, setting.backbone.latent_shape) for number in range(count)])
    noise = noise.to(setting.device)
    teachers = _spread(solved.at(torch.arange(count), -1))

    @torch.no_grad()
    def look() -> float:
        with objective.acting():
            samples = sample_latents(setting, STUDENT, noise, text, 1, renoise=False)
        return _spread(samples.cpu()) / max(teachers, 1e-12)

    return look


def _spread(samples: torch.Tensor) -> float:
    return float(torch.pdist(samples.detach().flatten(1)).mean())


def call_default(pipe: DiffusionPipeline, name: str, otherwise: Any) -> Any:
    """What a plain call of the pipeline takes for a setting."""
    parameter = inspect.signature(type(pipe).__call__).parameters.get(name)
    return parameter.default if parameter is not None and isinstance(parameter.default, int | float) else otherwise
