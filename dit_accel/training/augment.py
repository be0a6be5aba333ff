"""Changes that a picture may undergo and still show the same thing: for training judges, never generators."""

import io

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image

MAX_SHIFT_FRAC = 0.1
SCALES = (0.8, 1.15)
MAX_NOISE = 0.1
MAX_BLUR_SIGMA_PX = 1.5
BLUR_WINDOW_PX = 9
JPEG_QUALITIES = (25, 85)


def shift_and_scale(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Move by up to a tenth of the edge and scale by 0.8 to 1.15, each image by itself; the ground is white.

    Args:
        images: In [0, 1], [B, 3, H, W].
        generator: Of the draw.
    """
    count = len(images)
    theta = torch.zeros(count, 2, 3)
    zoom = torch.empty(count).uniform_(*SCALES, generator=generator)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / zoom
    theta[:, :, 2] = torch.empty(count, 2).uniform_(-2 * MAX_SHIFT_FRAC, 2 * MAX_SHIFT_FRAC, generator=generator)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return 1 - F.grid_sample(1 - images, grid, align_corners=False)


def add_noise(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Gaussian noise of a standard deviation up to 0.1."""
    sigma = torch.rand(len(images), 1, 1, 1, generator=generator) * MAX_NOISE
    return (images + sigma * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def blur(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Gaussian blur, standard deviation up to 1.5 px."""
    return torch.cat([gaussian_blur(image[None], _uniform(generator, 0.3, MAX_BLUR_SIGMA_PX)) for image in images])


def gaussian_blur(images: torch.Tensor, sigma_px: float) -> torch.Tensor:
    """Blur [B, 3, H, W] by one Gaussian; the edge pixels are repeated."""
    offsets = torch.arange(BLUR_WINDOW_PX) - BLUR_WINDOW_PX // 2
    line = torch.softmax(-(offsets**2) / (2 * sigma_px**2), dim=0).to(images)
    kernel = (line[:, None] * line).expand(3, 1, -1, -1)
    return F.conv2d(F.pad(images, [BLUR_WINDOW_PX // 2] * 4, mode="replicate"), kernel, groups=3)


def jpeg(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Through JPEG of quality 25 to 85 and back."""
    low, high = JPEG_QUALITIES
    done = []
    for image in images:
        buffer = io.BytesIO()
        pixels = (image.permute(1, 2, 0).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=int(_uniform(generator, low, high)))
        done.append(torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1).float() / 255)
    return torch.stack(done)


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Encode, draw from the posterior, decode: what a latent diffusion model can paint at best."""
    latents = vae.encode(images * 2 - 1).latent_dist.sample(generator)
    decoded: torch.Tensor = vae.decode(latents).sample
    return (decoded.float() / 2 + 0.5).clamp(0, 1)


def draw_variant(images: torch.Tensor, vae: AutoencoderKL | None, generator: torch.Generator) -> torch.Tensor:
    """One changed copy of each image: moved and scaled, half of them through the VAE, then one of four other changes.

    Args:
        images: In [0, 1], [B, 3, H, W].
        vae: Its reconstructions are mixed in; ``None``: none.
        generator: Of all draws.
    """
    out = shift_and_scale(images, generator)
    if vae is not None:
        through = torch.rand(len(images), generator=generator) < 0.5
        if through.any():
            out[through] = reconstruct(vae, out[through], generator)
    changes = (None, add_noise, blur, jpeg)
    kind = torch.randint(len(changes), (len(images),), generator=generator)
    for number, change in enumerate(changes):
        mine = kind == number
        if change is not None and mine.any():
            out[mine] = change(out[mine], generator)
    return out.clamp(0, 1)


def _uniform(generator: torch.Generator, low: float, high: float) -> float:
    return float(torch.empty(1).uniform_(low, high, generator=generator))
