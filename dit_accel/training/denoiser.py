"""Joint training of text encoders and a denoiser on latents, whatever the kind of pipeline.

Timesteps are stratified over the batch, which lowers the variance of the loss at no cost.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from dit_accel.training.erw import Alignment
from dit_accel.training.kinds import PipelineKind, TextInputs
from dit_accel.training.loop import LoopConfig, SampleFn, TrainLoop
from dit_accel.training.motion_heads import MotionHead
from dit_accel.training.objectives import Objective


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one step sees.

    Attributes:
        clean: Latents, float32 [B, C, h, w] or [B, C, k, h, w].
        text: Their captions, each int64 [B, N].
        frames: Of a video, the numbers of the frames that are shown, int64 [k].
        path: Where the sprites are in these frames, float32 [B, k, 3].
        objective: What to train in this step; ``None``: the kind's.
        image: Of images, their numbers, int64 [B].
    """

    clean: torch.Tensor
    text: TextInputs
    frames: torch.Tensor | None = None
    path: torch.Tensor | None = None
    objective: Objective | None = None
    image: torch.Tensor | None = None


class TrainingLatents(Protocol):
    """Training data of a denoiser, everything already encoded."""

    @property
    def empty(self) -> TextInputs:
        """The empty caption, each int64 [1, N]."""
        ...

    @property
    def shape(self) -> torch.Size:
        """Shape of one image's or video's latents."""
        ...

    def to(self, device: torch.device) -> "TrainingLatents":
        """The same data on a device, from which steps then draw without asking the host."""
        ...

    def draw(self, batch_size: int, progress: float, caption_drop: float, generator: torch.Generator) -> Batch:
        """Draw the batch of a step.

        Args:
            batch_size: Images, or frames.
            progress: Of the training, from 0 to 1.
            caption_drop: Share of captions to empty.
            generator: Source of everything random, on the device of the data.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentData:
    """Images and their captions.

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

    @property
    def shape(self) -> torch.Size:
        """See ``TrainingLatents``."""
        return self.mean.shape[1:]

    def to(self, device: torch.device) -> "LatentData":
        """See ``TrainingLatents``."""
        return LatentData(
            mean=self.mean.to(device),
            std=self.std.to(device),
            text={name: ids.to(device) for name, ids in self.text.items()},
            image=self.image.to(device),
            weight=self.weight.to(device),
            empty={name: ids.to(device) for name, ids in self.empty.items()},
        )

    def draw(self, batch_size: int, progress: float, caption_drop: float, generator: torch.Generator) -> Batch:
        """See ``TrainingLatents``; latents are drawn from the posteriors."""
        device = generator.device
        rows = torch.multinomial(self.weight, batch_size, replacement=True, generator=generator)
        drop = (torch.rand(batch_size, generator=generator, device=device) < caption_drop)[:, None]
        noise = torch.randn(batch_size, *self.mean.shape[1:], generator=generator, device=device)
        text = {name: torch.where(drop, self.empty[name], ids[rows]) for name, ids in self.text.items()}
        image = self.image[rows]
        return Batch(clean=self.mean[image] + self.std[image] * noise, text=text, image=image)


def stratified(batch_size: int, generator: torch.Generator) -> torch.Tensor:
    """Draw fractions in [0, 1), one from each ``batch_size``-th, ascending, float32 [B] on the generator's device."""
    strata = torch.arange(batch_size, device=generator.device)
    return (strata + torch.rand(batch_size, generator=generator, device=generator.device)) / batch_size


def denoiser_loop(
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
    heads: Mapping[str, MotionHead] | None = None,
    alignment: Alignment | None = None,
    sample_fn: SampleFn | None = None,
) -> TrainLoop:
    """Set up joint training of text encoders and denoiser.

    Args:
        kind: Kind of pipeline.
        modules: Untrained text encoders and denoiser by component name, on the device to train on.
        data: Encoded training data, on any device.
        config: Length and rates; of videos, ``batch_size`` counts frames.
        caption_drop: Share of captions replaced by the empty one, for classifier-free guidance.
        run_dir: Folder of checkpoint, log and sheets.
        seed: Seed of everything random in training.
        dtype: Autocast type; ``torch.float32`` trains without autocast.
        compile_modules: Whether to use ``torch.compile``.
        heads: Auxiliary losses on videos, trained along.
        alignment: Agreement with a frozen network's features of images, see ``erw.py``.
        sample_fn: See ``TrainLoop``.
    """
    heads = heads or {}
    denoiser: Any = modules[kind.denoiser_name]
    device = denoiser.device
    kind.prepare_training(denoiser)
    data = data.to(device)
    usual = kind.objective(data.shape)

    def compute(
        noisy: torch.Tensor, t: torch.Tensor, text: TextInputs, target: torch.Tensor, shown: tuple[torch.Tensor, ...],
        agree: tuple[torch.Tensor, ...],
    ) -> torch.Tensor:  # fmt: skip
        predicted = kind.predict(denoiser, noisy, t, kind.encode(modules, text))
        loss = F.mse_loss(predicted.float(), target)
        for head in heads.values() if shown else ():
            loss = loss + head.loss(*shown)
        if alignment is not None:
            weight, features = agree
            loss = loss + weight * alignment.projector.loss(features)
        return loss

    compute_loss = torch.compile(compute, dynamic=False) if compile_modules else compute

    def loss_fn(generator: torch.Generator) -> torch.Tensor:
        batch = data.draw(config.batch_size, loop.step / config.steps, caption_drop, generator)
        objective = batch.objective or usual
        noise = torch.randn(batch.clean.shape, generator=generator, device=device)
        t = objective.times(stratified(len(noise), generator))
        noisy, target = objective.example(batch.clean, noise, t)
        shown: tuple[torch.Tensor, ...] = ()
        if batch.frames is not None and batch.path is not None and len(batch.frames) > 1:  # one does not tell its time
            shown = (batch.frames, batch.path)
        agree: tuple[torch.Tensor, ...] = ()
        if alignment is not None:
            weight = alignment.config.weight_at(loop.step / config.steps)
            agree = (torch.tensor(weight, device=device), alignment.features[batch.image])
        with kind.showing(denoiser, batch.frames), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return compute_loss(noisy, t, batch.text, target, shown, agree)

    loop = TrainLoop(
        name="denoiser",
        modules={**modules, **heads, **({} if alignment is None else {"projector": alignment.projector})},
        loss_fn=loss_fn,
        config=config,
        run_dir=run_dir,
        seed=seed,
        draw_device=device,
        sample_fn=sample_fn,
    )
    return loop
