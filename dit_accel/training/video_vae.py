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
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, patchify, unpatchify
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput

from dit_accel.training.loop import LoopConfig, TrainLoop
from dit_accel.training.samples import save_sheet
from dit_accel.training.vae import to_unit, vae_loss

SHEET_IMAGES = 24


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


def _last_slot_conv(module: WanCausalConv3d, x: torch.Tensor, cache_x: Any = None) -> torch.Tensor:
    padding = (module._padding[2], module._padding[0])
    return F.conv2d(x[:, :, 0], module.weight[:, :, -1], module.bias, module.stride[1:], padding)[:, :, None]


def video_vae_loop(
    vae: AutoencoderKLWan,
    images: torch.Tensor,
    config: LoopConfig,
    *,
    run_dir: Path,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
    compile_modules: bool,
) -> TrainLoop:
    """Set up the training on single frames; run it inside ``single_frame_convolutions``.

    Args:
        vae: Untrained autoencoder, on ``device``.
        images: Frames, uint8 [M, 3, H, W].
        config: Length and rates.
        run_dir: Folder of checkpoint, log and sheets.
        seed: Seed of order, flips and latent noise.
        device: Device to train on.
        dtype: Autocast type; ``torch.float32`` trains without autocast.
        compile_modules: Whether to use ``torch.compile``.
    """
    codec = FrameCodec(vae)
    compute = torch.compile(vae_loss) if compile_modules else vae_loss
    factor = vae.config.scale_factor_spatial
    latent_shape = (vae.config.z_dim, images.shape[-2] // factor, images.shape[-1] // factor)

    def loss_fn(generator: torch.Generator) -> torch.Tensor:
        index = torch.randint(len(images), (config.batch_size,), generator=generator)
        flip = torch.rand(config.batch_size, generator=generator) < 0.5
        noise = torch.randn(config.batch_size, *latent_shape, generator=generator).to(device)
        x = to_unit(images[index].to(device))
        x = torch.where(flip.to(device)[:, None, None, None], x.flip(-1), x)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return compute(codec, x, noise)

    def sample_fn(step: int) -> None:
        x = to_unit(images[:SHEET_IMAGES].to(device))
        recon = codec.decode(codec.encode(x).latent_dist.mode()).sample
        sheet = torch.stack([x, recon], dim=1).flatten(0, 1)
        save_sheet(sheet.cpu(), run_dir / f"vae-{step:06d}.png", columns=12, zoom=2)

    return TrainLoop(
        name="vae",
        modules={"vae": vae},
        loss_fn=loss_fn,
        config=config,
        run_dir=run_dir,
        seed=seed,
        sample_fn=sample_fn,
    )


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
    codec, parts = FrameCodec(vae), []
    with single_frame_convolutions(vae), torch.autocast(vae.device.type, dtype, enabled=dtype != torch.float32):
        for batch in frames.split(batch_size):
            parts.append(codec.encode(to_unit(batch.to(vae.device))).latent_dist.mode().half().cpu())
    return torch.cat(parts)


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
