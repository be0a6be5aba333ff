"""Made-up pictures and their degradations, shared by the tests of metrics."""

import torch
from torch.nn import functional as F


def pictures(count: int = 3, px: int = 32, seed: int = 0) -> torch.Tensor:
    """Smooth pictures, so that blur changes them a little and noise a lot."""
    coarse = torch.rand((count, 3, px // 4, px // 4), generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=(px, px), mode="bilinear").clamp(0, 1)


def noisy(images: torch.Tensor, sigma: float) -> torch.Tensor:
    return (images + sigma * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)


def blurred(images: torch.Tensor, width: int) -> torch.Tensor:
    return F.avg_pool2d(F.pad(images, [width // 2] * 4, mode="replicate"), width, stride=1)
