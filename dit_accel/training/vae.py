"""Trains the small image autoencoder, and turns images into normalised latents.

The loss is L1, plus L1 of image gradients (blur costs extra), plus squared error of 4 x 4 block means, plus a small
KL term. Without the block means the four channels carry shading first and a green leaf stays brown for a thousand
steps. No perceptual network is used: the only one at hand (EfficientNet-Lite0) is the judge in the evaluation and
must not be trained against.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from dit_accel.training.loop import LoopConfig, TrainLoop
from dit_accel.training.samples import save_sheet

GRADIENT_WEIGHT = 0.5
COLOUR_WEIGHT = 4.0
COLOUR_BLOCK_PX = 4
KL_WEIGHT = 3e-4
SHEET_IMAGES = 24


def build_vae(
    *, image_size: int, latent_channels: int = 4, channels: Sequence[int] = (24, 48, 64), norm_groups: int = 8
) -> AutoencoderKL:
    """Make an untrained ``AutoencoderKL`` that downsamples by 2 ** (len(channels) - 1), 0.77 M parameters by default.

    Args:
        image_size: Edge length in pixels (recorded in the config).
        latent_channels: Channels of the latent.
        channels: Width of each resolution, finest first; each divisible by ``norm_groups``.
        norm_groups: Groups of each GroupNorm.
    """
    levels = len(channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(channels),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=norm_groups,
        sample_size=image_size,
        shift_factor=0.0,  # FLUX's pipeline adds it without asking whether it is there
        mid_block_add_attention=False,
    )


def vae_loss(vae: Any, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Reconstruction and KL loss of one batch.

    Args:
        vae: The autoencoder, or what stands in for it: see ``vae_loop``.
        x: Images in [-1, 1], shape [B, 3, H, W].
        noise: Standard normal noise of the latent's shape [B, C, H / f, W / f].
    """
    posterior = vae.encode(x).latent_dist
    recon: torch.Tensor = vae.decode(posterior.mean + posterior.std * noise).sample.float()
    kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
    colour = F.avg_pool2d(recon - x, COLOUR_BLOCK_PX).square().mean()
    loss: torch.Tensor = F.l1_loss(recon, x) + GRADIENT_WEIGHT * gradient_l1(recon, x)
    loss = loss + COLOUR_WEIGHT * colour + KL_WEIGHT * kl
    return loss


def gradient_l1(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean L1 distance of horizontal and vertical differences, images of shape [B, C, H, W]."""
    d = a - b
    return 0.5 * (d.diff(dim=-1).abs().mean() + d.diff(dim=-2).abs().mean())


def vae_loop(
    vae: Any,
    images: torch.Tensor,
    config: LoopConfig,
    *,
    run_dir: Path,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
    compile_modules: bool,
    decoder_only: bool = False,
    codec: Any = None,
) -> TrainLoop:
    """Set up VAE training with random horizontal flips.

    Args:
        vae: Untrained autoencoder, on ``device``.
        images: Training images, uint8, shape [M, 3, H, W].
        config: Length and rates.
        run_dir: Folder of checkpoint, log and sheets.
        seed: Seed of order, flips and latent noise.
        device: Device to train on.
        dtype: Autocast type; ``torch.float32`` trains without autocast.
        compile_modules: Whether to use ``torch.compile`` (a minute or two at the start).
        decoder_only: Freeze the encoder, so that latents, and whatever was trained on them, stay valid.
        codec: What encodes and decodes images with ``vae`` where it does not do so itself.
    """
    name = "decoder" if decoder_only else "vae"
    for part in (vae.encoder, vae.quant_conv):
        part.requires_grad_(not decoder_only)
    images = images.to(device)
    run_encode_decode = torch.compile(vae_loss) if compile_modules else vae_loss
    layout = torch.channels_last if codec is None else torch.contiguous_format
    codec = vae.to(memory_format=layout) if codec is None else codec
    with torch.no_grad():
        latent_shape = codec.encode(to_unit(images[:1])).latent_dist.mean.shape[1:]

    def loss_fn(generator: torch.Generator) -> torch.Tensor:
        index = torch.randint(len(images), (config.batch_size,), generator=generator, device=device)
        flip = torch.rand(config.batch_size, generator=generator, device=device) < 0.5
        noise = torch.randn(config.batch_size, *latent_shape, generator=generator, device=device)
        x = to_unit(images[index])
        x = torch.where(flip[:, None, None, None], x.flip(-1), x).contiguous(memory_format=layout)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return run_encode_decode(codec, x, noise)

    def sample_fn(step: int) -> None:
        x = to_unit(images[:SHEET_IMAGES])
        recon = codec.decode(codec.encode(x).latent_dist.mode()).sample
        save_sheet(torch.stack([x, recon], dim=1).flatten(0, 1), run_dir / f"{name}-{step:06d}.png", columns=12)

    return TrainLoop(
        name=name,
        modules={"vae": vae},
        loss_fn=loss_fn,
        config=config,
        run_dir=run_dir,
        seed=seed,
        draw_device=device,
        sample_fn=sample_fn,
    )


def to_unit(images: torch.Tensor) -> torch.Tensor:
    """Map uint8 images to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


@torch.no_grad()
def encode_images(vae: Any, images: torch.Tensor, batch_size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the latents of uint8 images, each [M, C, H / f, W / f], not scaled."""
    means, stds = [], []
    for batch in images.split(batch_size):
        posterior = vae.encode(to_unit(batch.to(vae.device))).latent_dist
        means.append(posterior.mean)
        stds.append(posterior.std)
    return torch.cat(means), torch.cat(stds)


def set_scaling_factor(vae: AutoencoderKL, latents: torch.Tensor) -> float:
    """Set ``vae.config.scaling_factor`` so that the given latents get unit standard deviation; returns it."""
    factor = float(1 / latents.float().std())
    vae.register_to_config(scaling_factor=factor)
    return factor
