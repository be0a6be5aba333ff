"""Fidelity: how close accelerated images are to the plain ones of the same prompt, seed and scheduler.

This says nothing about how good either image is; that is quality, and another table.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dit_accel.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    import torch

PSNR_CAP_DB = 100.0  # stands for "equal": the true value is infinite, which JSON and means cannot hold
MIN_SSIM_PX = 11  # edge of SSIM's Gaussian window


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityScores:
    """One number an image.

    Attributes:
        psnr_db: Peak signal-to-noise ratio, dB, capped at 100 (equal images); higher is closer.
        ssim: Structural similarity, at most 1; higher is closer.
    """

    psnr_db: tuple[float, ...]
    ssim: tuple[float, ...]


def require_metrics() -> None:
    """Say now, before anything slow has run, that the metrics' package is missing.

    Raises:
        MissingDependencyError: It is.
    """
    try:
        import torchmetrics.functional.image  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError.for_extra("torchmetrics", "bench", "measuring fidelity") from error


def fidelity(images: "torch.Tensor", reference: "torch.Tensor") -> FidelityScores:
    """Compare images with the plain pipeline's, one by one.

    PSNR takes 1.0 as the peak and averages the squared error over channels and pixels; SSIM is Wang et al. 2004
    with the 11-pixel Gaussian window of sigma 1.5, on RGB, averaged over channels.

    Args:
        images: Shape [B, 3, H, W], in [0, 1].
        reference: Same shape and range.

    Raises:
        ConfigError: Shapes differ, or values lie outside of [0, 1] or are not finite.
        MissingDependencyError: torchmetrics is not installed.
    """
    require_metrics()
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    left, right = _checked(images, "images"), _checked(reference, "reference")
    if left.shape != right.shape:
        raise ConfigError(f"images {list(left.shape)} and reference {list(right.shape)} differ in shape")
    if min(left.shape[-2:]) < MIN_SSIM_PX:
        raise ConfigError(f"SSIM needs images of at least {MIN_SSIM_PX} pixels a side, got {list(left.shape)}")
    psnr = peak_signal_noise_ratio(left, right, data_range=1.0, reduction="none", dim=(1, 2, 3))
    ssim = structural_similarity_index_measure(left, right, data_range=1.0, reduction="none")
    return FidelityScores(
        psnr_db=tuple(min(PSNR_CAP_DB, float(value)) for value in psnr.reshape(-1)),
        ssim=tuple(float(value) for value in ssim.reshape(-1)),
    )


def _checked(images: "torch.Tensor", name: str) -> "torch.Tensor":
    import torch

    if images.dim() != 4 or images.shape[1] != 3 or not len(images):
        raise ConfigError(f"{name}: wanted shape [B, 3, H, W], got {list(images.shape)}")
    images = images.detach().to("cpu", torch.float64)
    if not torch.isfinite(images).all():
        raise ConfigError(f"{name}: there are values that are not finite (NaN or infinity)")
    if images.min() < 0 or images.max() > 1:
        raise ConfigError(f"{name}: wanted values in [0, 1], got {images.min():.3f} to {images.max():.3f}")
    return images
