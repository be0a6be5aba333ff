"""Joint training of text encoders and a denoiser on latents, whatever the kind of pipeline.

Timesteps are stratified over the batch, which lowers the variance of the loss at no cost.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor

from dit_accel.training.kinds import PipelineKind, TextInputs
from dit_accel.training.loop import LoopConfig, SampleFn, TrainLoop


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentData:
    """Training data of a denoiser, everything already encoded.

    Attributes:
        mean, std: Scaled latents of M images, each float32 [M, C, h, w].
        text: R captions as the text encoders take them, each int64 [R, N].
        image: Image number of each caption, int64 [R].
        weight: Probability of each caption, float32 [R].
        empty: The empty caption, each int64 [1, N].
    """

    mean: torch.Tensor
    std: torch.Tensor
    text: TextInputs
    image: torch.Tensor
    weight: torch.Tensor
    empty: TextInputs

    def to(self, device: torch.device) -> "LatentData":
        """The same data on a device: a few MB, from which steps then draw without asking the host."""
        return LatentData(
            mean=self.mean.to(device),
            std=self.std.to(device),
            text={name: ids.to(device) for name, ids in self.text.items()},
            image=self.image.to(device),
            weight=self.weight.to(device),
            empty={name: ids.to(device) for name, ids in self.empty.items()},
        )

    def draw(
        self, batch_size: int, caption_drop: float, generator: torch.Generator
    ) -> tuple[torch.Tensor, TextInputs]:
        """Draw clean latents [B, C, h, w] from the posteriors, and their captions, some of them empty.

        Generator and data are on one device.
        """
        device = generator.device
        rows = torch.multinomial(self.weight, batch_size, replacement=True, generator=generator)
        drop = (torch.rand(batch_size, generator=generator, device=device) < caption_drop)[:, None]
        noise = torch.randn(batch_size, *self.mean.shape[1:], generator=generator, device=device)
        text = {name: torch.where(drop, self.empty[name], ids[rows]) for name, ids in self.text.items()}
        image = self.image[rows]
        return self.mean[image] + self.std[image] * noise, text


def stratified(batch_size: int, generator: torch.Generator) -> torch.Tensor:
    """Draw fractions in [0, 1), one from each ``batch_size``-th, ascending, float32 [B] on the generator's device."""
    strata = torch.arange(batch_size, device=generator.device)
    return (strata + torch.rand(batch_size, generator=generator, device=generator.device)) / batch_size


def denoiser_loop(
    kind: PipelineKind,
    modules: Mapping[str, torch.nn.Module],
    data: LatentData,
    config: LoopConfig,
    *,
    caption_drop: float,
    run_dir: Path,
    seed: int,
    dtype: torch.dtype,
    compile_modules: bool,
    sample_fn: SampleFn | None = None,
) -> TrainLoop:
    """Set up joint training of text encoders and denoiser.

    Args:
        kind: Kind of pipeline.
        modules: Untrained text encoders and denoiser by component name, on the device to train on.
        data: Encoded training data, on any device.
        config: Length and rates.
        caption_drop: Share of captions replaced by the empty one, for classifier-free guidance.
        run_dir: Folder of checkpoint, log and sheets.
        seed: Seed of everything random in training.
        dtype: Autocast type; ``torch.float32`` trains without autocast.
        compile_modules: Whether to use ``torch.compile``.
        sample_fn: See ``TrainLoop``.
    """
    denoiser: Any = modules[kind.denoiser_name]
    device = denoiser.device
    if device.type == "cpu" and kind.plain_attention_on_cpu:
        # PyTorch's fused attention spends a quarter of a CPU step in its backward pass; plain matmuls are faster.
        denoiser.set_attn_processor(AttnProcessor())
    objective = kind.objective(data.mean.shape[1:])
    data = data.to(device)
    b = config.batch_size

    def compute(noisy: torch.Tensor, t: torch.Tensor, text: TextInputs, target: torch.Tensor) -> torch.Tensor:
        predicted = kind.predict(denoiser, noisy, t, kind.encode(modules, text))
        return F.mse_loss(predicted.float(), target)

    compute_loss = torch.compile(compute) if compile_modules else compute

    def loss_fn(generator: torch.Generator) -> torch.Tensor:
        clean, text = data.draw(b, caption_drop, generator)
        noise = torch.randn(clean.shape, generator=generator, device=device)
        t = objective.times(stratified(b, generator))
        noisy, target = objective.example(clean, noise, t)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return compute_loss(noisy, t, text, target)

    return TrainLoop(
        name="denoiser",
        modules=dict(modules),
        loss_fn=loss_fn,
        config=config,
        run_dir=run_dir,
        seed=seed,
        draw_device=device,
        sample_fn=sample_fn,
    )
