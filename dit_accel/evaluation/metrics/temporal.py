"""Videos over time: flicker, how the plain run's changes are kept, and whether things move as the caption says."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from dit_accel.errors import ConfigError

MIN_FRAMES = 3
GREY_LEVEL = 1 / 255  # added above and below the ratio's line, so that still videos give 1 and not 0 / 0


class _Judged(Protocol):
    @property
    def right(self) -> bool: ...


MotionJudge = Callable[[torch.Tensor, str, str], _Judged]
"""``metrics.motion.motion_score``: frames [F, 3, H, W], wanted direction and scale, to a verdict."""


def temporal_flickering(videos: torch.Tensor) -> tuple[float, ...]:
    """VBench's score (Huang et al. 2024, "temporal flickering"): 1 less the mean absolute frame-to-frame change.

    VBench counts in 8-bit levels, (255 - MAE) / 255, which is the same on [0, 1]. It rewards videos that stand still:
    read it beside a motion score.

    Args:
        videos: Shape [B, F, 3, H, W], in [0, 1], at least three frames.

    Returns:
        One value a video; higher is better.
    """
    return tuple((1 - _mean(_checked(videos).diff(dim=1).abs())).tolist())


def flicker(videos: torch.Tensor) -> tuple[float, ...]:
    """Mean absolute second difference over time, \\|x[t-1] - 2 x[t] + x[t+1]\\|, in [0, 2].

    A steady fade has none, a pixel that goes to and fro has most. Motion of edges has some too, so that the value
    means something only beside that of a video with the same motion, see :func:`flicker_ratio`. Ours: VBench's first
    difference counts steady change as flicker.

    Args:
        videos: As for :func:`temporal_flickering`.
    """
    return tuple(_mean(_checked(videos).diff(n=2, dim=1).abs()).tolist())


def flicker_ratio(videos: torch.Tensor, reference: torch.Tensor) -> tuple[float, ...]:
    """Flicker of each video over that of the plain run's, one 8-bit level added to both.

    Args:
        videos: As for :func:`temporal_flickering`.
        reference: The plain run's.

    Returns:
        1: flickers as the plain one does; above 1: more.
    """
    pairs = zip(flicker(videos), flicker(reference), strict=True)
    return tuple((own + GREY_LEVEL) / (plain + GREY_LEVEL) for own, plain in pairs)


def temporal_error(videos: torch.Tensor, reference: torch.Tensor) -> tuple[float, ...]:
    """Mean absolute difference between the frame-to-frame changes of two videos, in [0, 2]; 0 is equal.

    The idea of TecoGAN's tLP (Chu et al. 2020: the change over time of the result against the change over time of the
    reference), with plain differences of pixels in LPIPS's place. An error that stands still does not count here, but
    in PSNR; an error that comes and goes counts.

    Args:
        videos: As for :func:`temporal_flickering`.
        reference: The plain run's, of the same shape.
    """
    left, right = _checked(videos), _checked(reference)
    if left.shape != right.shape:
        raise ConfigError(f"videos {list(left.shape)} and reference {list(right.shape)} differ in shape")
    return tuple(_mean((left.diff(dim=1) - right.diff(dim=1)).abs()).tolist())


def motion_right(videos: torch.Tensor, wanted: Sequence[tuple[str, str]], judge: MotionJudge) -> tuple[float, ...]:
    """1 for each video that moves as it was asked to, else 0.

    Args:
        videos: Shape [B, F, 3, H, W], in [0, 1].
        wanted: Direction and change of size of each.
        judge: ``motion_score`` of ``dit_accel.evaluation.metrics.motion``.

    Raises:
        ConfigError: Numbers differ.
    """
    if len(videos) != len(wanted):
        raise ConfigError(f"wanted a motion for each video, got {len(wanted)} for {len(videos)}")
    return tuple(float(judge(video, *motion).right) for video, motion in zip(videos, wanted, strict=True))


def _mean(changes: torch.Tensor) -> torch.Tensor:
    return changes.mean(dim=(1, 2, 3, 4), dtype=torch.float64)


def _checked(videos: torch.Tensor) -> torch.Tensor:
    if videos.dim() != 5 or videos.shape[2] != 3 or videos.shape[1] < MIN_FRAMES:
        raise ConfigError(f"wanted videos [B, F, 3, H, W] of at least {MIN_FRAMES} frames, got {list(videos.shape)}")
    return videos.detach().cpu().float()
