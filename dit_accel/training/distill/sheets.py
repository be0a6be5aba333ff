"""Latents to pictures, for sample sheets."""

from typing import Any

import torch

from dit_accel.training.distill.backbone import Backbone


@torch.no_grad()
def decode(backbone: Backbone, latents: torch.Tensor) -> torch.Tensor:
    """Images in [-1, 1], float32 [B, 3, H, W]; of videos all frames, one after the other.

    Args:
        backbone: Whose autoencoder.
        latents: Of images [B, C, h, w], or of videos [B, C, F, h, w].
    """
    vae: Any = backbone.pipe.vae  # type: ignore[attr-defined]
    if latents.dim() == 4:
        z = latents / vae.config.scaling_factor + (getattr(vae.config, "shift_factor", None) or 0.0)
        images: torch.Tensor = vae.decode(z.to(vae.dtype)).sample
        return images.float()
    mean = torch.tensor(vae.config.latents_mean, device=latents.device).view(1, -1, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std, device=latents.device).view(1, -1, 1, 1, 1)
    videos: torch.Tensor = vae.decode((latents * std + mean).to(vae.dtype)).sample
    return videos.float().transpose(1, 2).flatten(0, 1)
