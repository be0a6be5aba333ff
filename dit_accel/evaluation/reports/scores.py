"""What fidelity was measured, before it is summed up."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityScores:
    """One number an image or video.

    Attributes:
        psnr_db: Peak signal-to-noise ratio, dB, capped at 100 (equal images); higher is closer. Of a video the mean
            over its frames.
        ssim: Structural similarity, at most 1; higher is closer. Of a video the mean over its frames.
        lpips: LPIPS (Zhang et al. 2018) with AlexNet; 0 is equal. Of a video the mean over its frames. ``None``: not
            measured.
        st_lpips: Shift-tolerant LPIPS (Ghildyal and Liu 2022) with AlexNet, in the same way.
        temporal_error: Of videos, see :func:`dit_accel.evaluation.metrics.temporal.temporal_error`.
        flicker_ratio: Of videos, see :func:`dit_accel.evaluation.metrics.temporal.flicker_ratio`.
    """

    psnr_db: tuple[float, ...]
    ssim: tuple[float, ...]
    lpips: tuple[float, ...] | None = None
    st_lpips: tuple[float, ...] | None = None
    temporal_error: tuple[float, ...] | None = None
    flicker_ratio: tuple[float, ...] | None = None
