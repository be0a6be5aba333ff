"""Trains an assembled UNet to do what the whole one does: task loss, output and features of every block.

Kim et al. 2023, "BK-SDM" (arXiv 2305.15798), eq. 3: L = L_task + L_output + L_feature, as A-SDM distils. Runs on the
one loop of the embedded pipelines, which saves and resumes it. A UNet that will only draw some steps of a run (the
pass ``unet_switching``) is trained at their times alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from dit_accel.errors import ConfigError
from dit_accel.training.denoiser import TrainingLatents, stratified
from dit_accel.training.kinds import Modules, PipelineKind
from dit_accel.training.loop import LoopConfig, SampleFn, TrainLoop

STACKS = ("down_blocks", "up_blocks")


def assembly_loop(
    kind: PipelineKind,
    modules: Modules,
    student: nn.Module,
    data: TrainingLatents,
    config: LoopConfig,
    *,
    run_dir: Path,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    output_weight: float = 1.0,
    feature_weight: float = 1.0,
    begin_frac: float = 0.0,
    end_frac: float = 1.0,
    caption_drop: float = 0.1,
    sample_fn: SampleFn | None = None,
) -> TrainLoop:
    """Set the training up.

    Args:
        kind: Of the pipeline.
        modules: Text encoders and the whole denoiser, the teacher, by component name; all are frozen.
        student: The assembled UNet.
        data: Encoded training data.
        config: Length and rates.
        run_dir: Folder of checkpoint, log and sheets.
        seed: Of everything random.
        dtype: Autocast type.
        output_weight: Of the distance of outputs.
        feature_weight: Of the mean distance of the blocks' features, each relative to the teacher's.
        begin_frac: Where the steps begin that it will draw, as a share of a run; 0 is pure noise.
        end_frac: Where they end.
        caption_drop: Share of empty captions.
        sample_fn: See ``TrainLoop``.

    Raises:
        ConfigError: The range of steps is empty.
    """
    if not 0 <= begin_frac < end_frac <= 1:
        raise ConfigError(f"wanted 0 <= begin_frac < end_frac <= 1, got {begin_frac} and {end_frac}")
    teacher = modules[kind.denoiser_name]
    for module in modules.values():
        module.requires_grad_(False).eval()
    device = next(student.parameters()).device
    objective, data = kind.objective(data.shape), data.to(device)

    def loss_fn(generator: torch.Generator) -> torch.Tensor:
        batch = data.draw(config.batch_size, loop.step / config.steps, caption_drop, generator)
        noise = torch.randn(batch.clean.shape, generator=generator, device=device)
        fraction = 1 - end_frac + (end_frac - begin_frac) * stratified(len(noise), generator)
        t = objective.times(fraction)
        noisy, target = objective.example(batch.clean, noise, t)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            with torch.no_grad(), features(teacher) as wanted:
                condition = kind.encode(modules, batch.text)
                whole = kind.predict(teacher, noisy, t, condition).float()
            with features(student) as found:
                own = kind.predict(student, noisy, t, condition).float()
        loss = F.mse_loss(own, target) + output_weight * F.mse_loss(own, whole)
        return loss + feature_weight * feature_distance(found, wanted)

    loop = TrainLoop(
        name="assembly", modules={kind.denoiser_name: student}, loss_fn=loss_fn, config=config, run_dir=run_dir,
        seed=seed, draw_device=device, sample_fn=sample_fn,
    )  # fmt: skip
    return loop


@contextmanager
def features(unet: Any) -> Iterator[list[torch.Tensor]]:
    """Collects what each down and up block of a UNet hands on, while it lasts."""
    found: list[torch.Tensor] = []
    handles = [
        block.register_forward_hook(lambda m, a, out: found.append(out[0] if isinstance(out, tuple) else out))
        for stack in STACKS
        for block in getattr(unet, stack)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def feature_distance(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> torch.Tensor:
    """Mean over the blocks of |a - b|^2 / |b|^2."""
    distances = [
        F.mse_loss(a.float(), b.float()) / b.float().square().mean().clamp_min(1e-12)
        for a, b in zip(found, wanted, strict=True)
    ]
    return torch.stack(distances).mean()
