"""Trains a small Wan autoencoder frame by frame, and turns videos into normalised latents.

``AutoencoderKLWan`` is a causal video autoencoder. Ours compresses space only: 16 frames of 64 x 64 pixels with
latents of 16 x 16 leave 1,024 tokens, and a quarter of the frames would leave a quarter of that. Each kernel of three
frames then uses its last slot alone; the other two are zero. So a video is decoded frame by frame with the same result
as all at once, and training needs two-dimensional convolutions only.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, patchify, unpatchify
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput

from dit_accel.training.vae import to_unit


def build_video_vae(
    *, base_dim: int = 48, dim_mult: tuple[int, ...] = (1, 2), z_dim: int = 8, patch_size: int = 2
) -> AutoencoderKLWan:
    """Make an untrained ``AutoencoderKLWan`` that compresses space by ``patch_size * 2 ** (len(dim_mult) - 1)``.

    Args:
        base_dim: Channels at the finest resolution.
        dim_mult: Channels of each resolution as a multiple, finest first.
        z_dim: Channels of the latent.
        patch_size: Edge of the pixel blocks that are folded into channels first (as in Wan 2.2), which makes
            the convolutions cheap.
    """
    levels = len(dim_mult) - 1
    vae = AutoencoderKLWan(
        base_dim=base_dim,
        z_dim=z_dim,
        dim_mult=list(dim_mult),
        num_res_blocks=1,
        temperal_downsample=[False] * levels,
        latents_mean=[0.0] * z_dim,
        latents_std=[1.0] * z_dim,
        in_channels=3 * patch_size**2,
        out_channels=3 * patch_size**2,
        patch_size=patch_size,
        scale_factor_temporal=1,
        scale_factor_spatial=patch_size * 2**levels,
    )
    for module in vae.modules():
        if isinstance(module, WanCausalConv3d):
            # Of a kernel over three frames, only the slot of the current frame is used.
            module.weight.data[:, :, :-1] = 0
            module.weight.data *= module.weight.shape[2] ** 0.5
    return vae


@dataclass(frozen=True, slots=True)
class FrameCodec:
    """An ``AutoencoderKLWan`` with the interface of an image autoencoder, without clamping and without frame cache.

    Attributes:
        vae: The autoencoder.
    """

    vae: AutoencoderKLWan

    @property
    def device(self) -> torch.device:
        """Of the autoencoder."""
        device: torch.device = self.vae.device
        return device

    def encode(self, x: torch.Tensor) -> AutoencoderKLOutput:
        """Encode frames in [-1, 1], [B, 3, H, W], to a posterior over [B, C, h, w]."""
        moments = self.vae.quant_conv(self.vae.encoder(patchify(x[:, :, None], self.vae.config.patch_size)))
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(moments[:, :, 0]))

    def decode(self, z: torch.Tensor) -> DecoderOutput:
        """Decode latents [B, C, h, w], not normalised, to frames [B, 3, H, W]."""
        x = self.vae.decoder(self.vae.post_quant_conv(z[:, :, None]))
        return DecoderOutput(sample=unpatchify(x, self.vae.config.patch_size)[:, :, 0])


@contextlib.contextmanager
def single_frame_convolutions(vae: AutoencoderKLWan) -> Iterator[None]:
    """For the time being, compute each causal convolution in 2D with its last slot: exact for single frames."""
    convolutions = [module for module in vae.modules() if isinstance(module, WanCausalConv3d)]
    for module in convolutions:
        module.forward = partial(_last_slot_conv, module)
    try:
        yield
    finally:
        for module in convolutions:
            del module.forward


@contextlib.contextmanager
def frame_codec(vae: AutoencoderKLWan) -> Iterator[FrameCodec]:
    """A ``FrameCodec`` that computes with ``single_frame_convolutions``."""
    with single_frame_convolutions(vae):
        yield FrameCodec(vae)


def _last_slot_conv(module: WanCausalConv3d, x: torch.Tensor, cache_x: Any = None) -> torch.Tensor:
    padding = (module._padding[2], module._padding[0])
    return F.conv2d(x[:, :, 0], module.weight[:, :, -1], module.bias, module.stride[1:], padding)[:, :, None]


@torch.no_grad()
def encode_frames(
    vae: AutoencoderKLWan, frames: torch.Tensor, dtype: torch.dtype, batch_size: int = 64
) -> torch.Tensor:
    """Mean latents of frames, each encoded for itself, not normalised.

    ``AutoencoderKLWan.encode`` takes frames in chunks of 1, 4, 4, ... as temporal compression by four needs, and
    loses three of sixteen without it; so do not use it on whole videos.

    Args:
        vae: Trained autoencoder.
        frames: uint8 [M, 3, H, W].
        dtype: Autocast type; ``torch.float32`` encodes without autocast.
        batch_size: Frames at a time.

    Returns:
        float16 [M, C, h, w], on the CPU.
    """
    parts = []
    with frame_codec(vae) as codec, torch.autocast(vae.device.type, dtype, enabled=dtype != torch.float32):
        for batch in frames.split(batch_size):
            parts.append(codec.encode(to_unit(batch.to(vae.device))).latent_dist.mode().half().cpu())
    return torch.cat(parts)


@torch.no_grad()
def decode_frames(vae: AutoencoderKLWan, latents: torch.Tensor, batch_size: int = 64) -> torch.Tensor:
    """Frames in [-1, 1], float32 [M, 3, H, W] on the CPU, of latents [M, C, h, w], not normalised."""
    with frame_codec(vae) as codec:
        parts = [codec.decode(z.float().to(vae.device)).sample.float().cpu() for z in latents.split(batch_size)]
    return torch.cat(parts).clamp(-1, 1)


def set_latent_statistics(vae: AutoencoderKLWan, latents: torch.Tensor) -> None:
    """Write mean and standard deviation of each channel of latents [M, C, h, w] into the config."""
    values = latents.float().transpose(0, 1).flatten(1)
    vae.register_to_config(latents_mean=values.mean(1).tolist(), latents_std=values.std(1).tolist())


def normalise(vae: AutoencoderKLWan, latents: torch.Tensor) -> torch.Tensor:
    """Latents [M, C, h, w] to zero mean and unit deviation a channel; ``WanPipeline`` undoes it before decoding."""
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return ((latents.float() - mean) / std).to(latents.dtype)
