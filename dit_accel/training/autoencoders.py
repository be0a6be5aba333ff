"""What the trainer needs to know of an autoencoder: ``AutoencoderKL`` for images, ``AutoencoderKLWan`` for videos."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import AutoencoderKL, AutoencoderKLWan

from dit_accel.training.vae import build_vae, set_scaling_factor
from dit_accel.training.video_vae import build_video_vae, frame_codec, set_latent_statistics


class Autoencoder(Protocol):
    """One class of autoencoder in training; ``Any`` stands for its instances."""

    def build(self, image_size: int, config: dict[str, Any]) -> Any:
        """Make an untrained one.

        Args:
            image_size: Edge length in pixels.
            config: Of the recipe.
        """
        ...

    def load(self, path: Path) -> Any:
        """Load a saved one."""
        ...

    def codec(self, vae: Any) -> AbstractContextManager[Any]:
        """For the time being, ``encode``, ``decode`` and ``device`` for single images [B, 3, H, W]."""
        ...

    def set_statistics(self, vae: Any, latents: torch.Tensor) -> None:
        """Write into the config what brings latents [M, C, h, w] to unit deviation."""
        ...


class ImageAutoencoder:
    """``AutoencoderKL``; see ``Autoencoder``."""

    def build(self, image_size: int, config: dict[str, Any]) -> AutoencoderKL:
        """See ``build_vae``."""
        return build_vae(image_size=image_size, **config)

    def load(self, path: Path) -> AutoencoderKL:
        """See ``Autoencoder``."""
        return AutoencoderKL.from_pretrained(path)

    def codec(self, vae: AutoencoderKL) -> AbstractContextManager[AutoencoderKL]:
        """It is one."""
        return nullcontext(vae)

    def set_statistics(self, vae: AutoencoderKL, latents: torch.Tensor) -> None:
        """One scaling factor."""
        set_scaling_factor(vae, latents)


class FrameAutoencoder:
    """``AutoencoderKLWan``, frame by frame; see ``Autoencoder`` and ``video_vae.py``."""

    def build(self, image_size: int, config: dict[str, Any]) -> AutoencoderKLWan:
        """See ``build_video_vae``; it works at any size."""
        return build_video_vae(**config)

    def load(self, path: Path) -> AutoencoderKLWan:
        """See ``Autoencoder``."""
        return AutoencoderKLWan.from_pretrained(path)

    def codec(self, vae: AutoencoderKLWan) -> AbstractContextManager[Any]:
        """Single frames, by two-dimensional convolutions."""
        return frame_codec(vae)

    def set_statistics(self, vae: AutoencoderKLWan, latents: torch.Tensor) -> None:
        """Mean and deviation of each channel."""
        set_latent_statistics(vae, latents)
