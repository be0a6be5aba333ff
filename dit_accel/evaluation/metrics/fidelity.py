"""Fidelity: how close accelerated images or videos are to the plain ones of the same prompt, seed and scheduler.

This says nothing about how good either is; that is quality, and another table.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dit_accel.errors import ConfigError, MissingDependencyError
from dit_accel.evaluation.reports.scores import FidelityScores

if TYPE_CHECKING:
    import torch

PSNR_CAP_DB = 100.0  # stands for "equal": the true value is infinite, which JSON and means cannot hold
MIN_SSIM_PX = 11  # edge of SSIM's Gaussian window
PIXELS_AT_ONCE = 2**20  # the first layer of a perceptual network keeps 64 numbers for each
IMAGES_AT_ONCE = 16  # float64 copies of a whole video, several of them, would fill the memory


def require_metrics() -> None:
    """Say now, before anything slow has run, that the metrics' package is missing.

    Raises:
        MissingDependencyError: It is.
    """
    try:
        import torchmetrics.functional.image  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError.for_extra("torchmetrics", "bench", "measuring fidelity") from error


def fidelity(images: "torch.Tensor", reference: "torch.Tensor", *, perceptual: Sequence[str] = ()) -> FidelityScores:
    """Compare images or videos with the plain pipeline's, one by one.

    PSNR takes 1.0 as the peak and averages the squared error over channels and pixels; SSIM is Wang et al. 2004
    with the 11-pixel Gaussian window of sigma 1.5, on RGB, averaged over channels.

    Args:
        images: Shape [B, 3, H, W], or videos [B, F, 3, H, W], in [0, 1].
        reference: Same shape and range.
        perceptual: Perceptual distances to measure too, see :mod:`dit_accel.evaluation.metrics.perceptual`; images
            that are too small for one are not measured with it.

    Raises:
        ConfigError: Shapes differ, or values lie outside of [0, 1] or are not finite.
        MissingDependencyError: torchmetrics, or what a perceptual distance needs, is not installed.
    """
    found = differences(images, reference, perceptual=perceptual, ssim=True)
    return FidelityScores(**found, **_over_time(_checked(images, "images"), _checked(reference, "reference")))


def differences(
    images: "torch.Tensor", reference: "torch.Tensor", *, perceptual: Sequence[str] = (), ssim: bool = False
) -> dict[str, tuple[float, ...]]:
    """PSNR and perceptual distances alone, as :func:`fidelity` measures them: for a search, SSIM costs more than both.

    Args:
        images: As there.
        reference: As there.
        perceptual: As there.
        ssim: Measure it too.

    Returns:
        One number for each image or video, by the names of :class:`FidelityScores`.

    Raises:
        ConfigError: As there.
        MissingDependencyError: As there.
    """
    require_metrics()
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    from dit_accel.evaluation.metrics.perceptual import MIN_PX, load_perceptual

    left, right = _checked(images, "images"), _checked(reference, "reference")
    if left.shape != right.shape:
        raise ConfigError(f"images {list(left.shape)} and reference {list(right.shape)} differ in shape")
    if ssim and min(left.shape[-2:]) < MIN_SSIM_PX:
        raise ConfigError(f"SSIM needs images of at least {MIN_SSIM_PX} pixels a side, got {list(left.shape)}")
    networks = {name: load_perceptual(name) for name in perceptual if min(left.shape[-2:]) >= MIN_PX.get(name, 0)}
    seen: dict[str, list[float]] = {"psnr_db": [], **({"ssim": []} if ssim else {}), **{name: [] for name in networks}}
    for some, others in zip(*(part.flatten(0, -4).split(IMAGES_AT_ONCE) for part in (left, right)), strict=True):
        pair = some.double(), others.double()
        peaks = peak_signal_noise_ratio(*pair, data_range=1.0, reduction="none", dim=(1, 2, 3))
        seen["psnr_db"] += [min(PSNR_CAP_DB, float(value)) for value in peaks.reshape(-1)]
        if ssim:
            alike = structural_similarity_index_measure(*pair, data_range=1.0, reduction="none")
            seen["ssim"] += alike.reshape(-1).tolist()
        for name, network in networks.items():
            few = max(1, PIXELS_AT_ONCE // (some.shape[-2] * some.shape[-1]))
            for part in zip(some.float().split(few), others.float().split(few), strict=True):
                seen[name] += network(*part).tolist()
    return {name: _means(values, len(left)) for name, values in seen.items()}


def _over_time(videos: "torch.Tensor", reference: "torch.Tensor") -> dict[str, tuple[float, ...]]:
    """Scores that only videos have."""
    from dit_accel.evaluation.metrics.temporal import MIN_FRAMES, flicker_ratio, temporal_error

    if videos.dim() == 4 or videos.shape[1] < MIN_FRAMES:
        return {}
    pairs = list(zip(videos.split(1), reference.split(1), strict=True))
    return {
        "temporal_error": tuple(temporal_error(*pair)[0] for pair in pairs),
        "flicker_ratio": tuple(flicker_ratio(*pair)[0] for pair in pairs),
    }


def _means(per_frame: list[float], count: int) -> tuple[float, ...]:
    """One mean for each of ``count`` images (of one frame) or videos."""
    frames = len(per_frame) // count
    return tuple(sum(per_frame[start : start + frames]) / frames for start in range(0, len(per_frame), frames))


def _checked(images: "torch.Tensor", name: str) -> "torch.Tensor":
    import torch

    if images.dim() not in (4, 5) or images.shape[-3] != 3 or not images.numel():
        raise ConfigError(f"{name}: wanted shape [B, 3, H, W] or [B, F, 3, H, W], got {list(images.shape)}")
    images = images.detach().cpu()
    if not torch.isfinite(images).all():
        raise ConfigError(f"{name}: there are values that are not finite (NaN or infinity)")
    if images.min() < 0 or images.max() > 1:
        raise ConfigError(f"{name}: wanted values in [0, 1], got {images.min():.3f} to {images.max():.3f}")
    return images
