"""Pipelines without a VAE, and a stand-in for one."""

from types import SimpleNamespace

import diffusers
import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from tiny_models import tiny_model
from torch import nn


class PoolingVae(diffusers.ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Scales by 64: pictures to edit come to it at 1024 x 1024 pixels, whatever is made. It cannot decode."""

    @register_to_config
    def __init__(
        self, z_dim: int = 4, latents_mean: tuple[float, ...] = (0.0,) * 4, latents_std: tuple[float, ...] = (1.0,) * 4
    ) -> None:
        super().__init__()
        self.temperal_downsample = (False,) * 6
        self.colour = nn.Parameter(torch.eye(z_dim, 3), requires_grad=False)

    def encode(self, images: torch.Tensor) -> SimpleNamespace:
        cells = F.avg_pool3d(images, (1, 64, 64))
        return SimpleNamespace(latents=torch.einsum("zc,bcfhw->bzfhw", self.colour, cells))


def without_vae(pipeline: str, model: str, *more_encoders: str) -> diffusers.DiffusionPipeline:
    """A flow-matching pipeline that only ever returns latents."""
    empty = dict.fromkeys(("vae", "text_encoder", "tokenizer", *more_encoders))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    return getattr(diffusers, pipeline)(transformer=tiny_model(model), scheduler=scheduler, **empty)
