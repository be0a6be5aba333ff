"""Distils classifier-free guidance into a denoiser that is told the guidance scale, as FLUX.1-dev's is.

Meng et al. 2023, "On Distillation of Guided Diffusion Models", §3.1 (stage one). The teacher is the denoiser itself as
trained before, at scale 1. Departs from the paper: the student keeps the empty caption, at every scale, so that the
pipeline's true classifier-free guidance goes on working; and the text encoders stay fixed.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from dit_accel.training.denoiser import TrainingLatents, stratified
from dit_accel.training.kinds import PipelineKind, TextInputs
from dit_accel.training.loop import LoopConfig, SampleFn, TrainLoop

MIN_SCALE, MAX_SCALE = 1.0, 6.0


def guidance_loop(
    kind: PipelineKind,
    modules: Mapping[str, torch.nn.Module],
    data: TrainingLatents,
    config: LoopConfig,
    *,
    caption_drop: float,
    run_dir: Path,
    seed: int,
    dtype: torch.dtype,
    compile_modules: bool,
    sample_fn: SampleFn | None = None,
) -> TrainLoop:
    """Set up the distillation. The denoiser given is the student and starts as its own teacher.

    Args:
        kind: Kind of pipeline; its denoiser takes the guidance scale.
        modules: Trained text encoders and denoiser by component name, on the device to train on.
        data: Encoded training data, on any device.
        config: Length and rates.
        caption_drop: Share of empty captions.
        run_dir: Folder of checkpoint, log and sheets.
        seed: Seed of everything random in training.
        dtype: Autocast type; ``torch.float32`` trains without autocast.
        compile_modules: Whether to use ``torch.compile``; on the CPU the stage is too short for it.
        sample_fn: See ``TrainLoop``.
    """
    student: Any = modules[kind.denoiser_name]
    teacher = copy.deepcopy(student).requires_grad_(False).eval()
    encoders = {name: module.requires_grad_(False) for name, module in modules.items() if module is not student}
    device = student.device
    objective = kind.objective(data.shape)
    data = data.to(device)
    b = config.batch_size
    empty = {name: ids.expand(b, -1) for name, ids in data.empty.items()}

    def compute(noisy: torch.Tensor, t: torch.Tensor, scale: torch.Tensor, text: TextInputs) -> torch.Tensor:
        with torch.no_grad():
            both: TextInputs = {name: torch.cat([ids, empty[name]]) for name, ids in text.items()}
            encoded = kind.encode(encoders, both)
            guided, plain = kind.predict(teacher, noisy.repeat(2, 1, 1, 1), t.repeat(2), encoded).float().chunk(2)
            target = plain + scale.view(-1, 1, 1, 1) * (guided - plain)
        condition = {name: states[:b] for name, states in encoded.items()}
        predicted = kind.predict(student, noisy, t, condition, scale)
        return F.mse_loss(predicted.float(), target)

    compute_loss = torch.compile(compute) if compile_modules and device.type != "cpu" else compute

    def loss_fn(generator: torch.Generator) -> torch.Tensor:
        batch = data.draw(b, loop.step / config.steps, caption_drop, generator)
        clean, text = batch.clean, batch.text
        noise = torch.randn(clean.shape, generator=generator, device=device)
        t = objective.times(stratified(b, generator))
        scale = torch.empty(b, device=device).uniform_(MIN_SCALE, MAX_SCALE, generator=generator)
        noisy, _ = objective.example(clean, noise, t)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return compute_loss(noisy, t, scale, text)

    loop = TrainLoop(
        name="guidance",
        modules={kind.denoiser_name: student},
        loss_fn=loss_fn,
        config=config,
        run_dir=run_dir,
        seed=seed,
        draw_device=device,
        sample_fn=sample_fn,
    )
    return loop
