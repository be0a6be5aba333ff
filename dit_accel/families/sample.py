"""The size of one sample call of a denoiser, and the tensors for it."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One sample call, measured in latent cells.

    Attributes:
        batch: Batch size of the call, guidance included.
        frames: Latent frames; 1 for images.
        height: Latent rows, before patching.
        width: Latent columns, before patching.
        text_tokens: Length of the prompt sequence.
        device: Where the tensors live; ``meta`` gives shapes only.
        dtype: Of the floating point tensors.
        generator: Source of the random values, on the CPU.
    """

    batch: int
    frames: int
    height: int
    width: int
    text_tokens: int
    device: torch.device
    dtype: torch.dtype
    generator: torch.Generator

    def randn(self, *shape: int) -> torch.Tensor:
        """Standard normal values of shape ``shape``; the same on every device for one seed."""
        if self.device.type == "meta":
            return torch.empty(shape, device=self.device, dtype=self.dtype)
        return torch.randn(shape, generator=self.generator).to(self.device, self.dtype)

    def latent(self, channels: int) -> torch.Tensor:
        """Image latents, shape ``(batch, channels, height, width)``."""
        return self.randn(self.batch, channels, self.height, self.width)

    def video(self, channels: int) -> torch.Tensor:
        """Video latents, shape ``(batch, channels, frames, height, width)``."""
        return self.randn(self.batch, channels, self.frames, self.height, self.width)

    def text(self, channels: int) -> torch.Tensor:
        """Prompt embeddings, shape ``(batch, text_tokens, channels)``."""
        return self.randn(self.batch, self.text_tokens, channels)

    def mask(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """A prompt mask that hides nothing, shape ``(batch, text_tokens)``."""
        return torch.ones(self.batch, self.text_tokens, device=self.device, dtype=dtype or self.dtype)

    def timestep(self, value: float = 500, dtype: torch.dtype = torch.long) -> torch.Tensor:
        """One timestep per batch item, shape ``(batch,)``."""
        return torch.full((self.batch,), value, device=self.device, dtype=dtype)
