"""Does it move as asked? Reads direction and change of size from the frames of a video with a white background.

The foreground is what differs from white. Its centroid and the square root of its area are tracked over the frames,
and a straight line is fitted to each (to the logarithm of the size). No model is involved, so the score cannot be
fooled by what looks plausible, and it can be tested on videos whose motion is known.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from dit_accel.errors import ConfigError

DIRECTIONS: dict[str, tuple[int, int]] = {
    "none": (0, 0),
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
}
SCALES = ("same", "grows", "shrinks")

# A pixel counts from the first distance from white on, fully from the second: faint noise does not count.
FAINT, CLEAR = 0.12, 0.3
# A frame with less than this much foreground, as a fraction of its pixels, is empty.
MIN_AREA_FRAC = 0.01
# Half of the smallest displacement of the training videos (18 px of 64).
MIN_DISPLACEMENT_FRAC = 9 / 64
# The larger displacement must be so many times the other one.
DOMINANCE = 2.0
# About the square root of the training videos' change of size (1.6).
MIN_GROWTH = 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class MotionScore:
    """What was measured, and whether it is what was asked for.

    Attributes:
        direction: Measured direction, a key of ``DIRECTIONS``; ``"unclear"`` for a diagonal or an empty video.
        scale: Measured change of size, one of ``SCALES``; ``"unclear"`` for an empty video.
        direction_right: Whether the direction is the wanted one.
        scale_right: Whether the change of size is the wanted one.
        displacement_px: Fitted displacement from the first frame to the last, x to the right and y down.
        growth: Fitted size in the last frame over size in the first.
        wobble_px: Root mean square distance of the centroids from the fitted line.
    """

    direction: str
    scale: str
    direction_right: bool
    scale_right: bool
    displacement_px: tuple[float, float]
    growth: float
    wobble_px: float

    @property
    def right(self) -> bool:
        """Whether both are right."""
        return self.direction_right and self.scale_right


@dataclass(frozen=True, slots=True, kw_only=True)
class MotionTrack:
    """The foreground of each frame.

    Attributes:
        centroid: In pixels, x to the right and y down, float64 [F, 2]; not a number in empty frames.
        size: Square root of the area in pixels, float64 [F].
        empty: Whether a frame has too little foreground, bool [F].
    """

    centroid: torch.Tensor
    size: torch.Tensor
    empty: torch.Tensor


def track_foreground(frames: torch.Tensor) -> MotionTrack:
    """Find the foreground of each frame.

    Args:
        frames: Video in [0, 1], float [F, 3, H, W].

    Raises:
        ConfigError: The shape is another one.
    """
    if frames.ndim != 4 or frames.shape[1] != 3 or len(frames) < 2:
        raise ConfigError(f"A video is [F, 3, H, W] with at least two frames, got {tuple(frames.shape)}.")
    height, width = frames.shape[2:]
    distance = (1 - frames.detach().cpu().double()).clamp(0, 1).amax(dim=1)
    weight = ((distance - FAINT) / (CLEAR - FAINT)).clamp(0, 1)
    area = weight.sum(dim=(1, 2))
    x = (weight.sum(dim=1) * (torch.arange(width) + 0.5)).sum(dim=1) / area
    y = (weight.sum(dim=2) * (torch.arange(height) + 0.5)).sum(dim=1) / area
    return MotionTrack(
        centroid=torch.stack([x, y], dim=1), size=area.sqrt(), empty=area < MIN_AREA_FRAC * height * width
    )


def crop_foreground(image: torch.Tensor, margin_frac: float = 0.1) -> torch.Tensor:
    """Cut the foreground out, in a square with a white margin, and enlarge it to the size of the image.

    Args:
        image: In [0, 1], float [3, S, S].
        margin_frac: Margin on each side as a fraction of the foreground's longer edge.

    Returns:
        Of the same shape; an image without foreground comes back as it is.
    """
    size = image.shape[-1]
    rows, columns = ((1 - image).amax(dim=0) > (FAINT + CLEAR) / 2).nonzero(as_tuple=True)
    if len(rows) < MIN_AREA_FRAC * size * size:
        return image
    top, bottom, left, right = (int(edge) for edge in (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1))
    edge = max(bottom - top, right - left)
    margin = round(margin_frac * edge)
    above, before = margin + (edge - bottom + top) // 2, margin + (edge - right + left) // 2
    square = torch.ones(3, edge + 2 * margin, edge + 2 * margin, dtype=image.dtype)
    square[:, above : above + bottom - top, before : before + right - left] = image[:, top:bottom, left:right]
    return F.interpolate(square[None], size=(size, size), mode="bilinear", align_corners=False)[0]


def motion_score(frames: torch.Tensor, direction: str, scale: str) -> MotionScore:
    """Judge one video.

    The thresholds: the sprite moves when the fitted displacement is at least ``MIN_DISPLACEMENT_FRAC`` of the width
    and ``DOMINANCE`` times that of the other axis, and stays when both are below the first; it grows or shrinks when
    the fitted sizes differ by ``MIN_GROWTH`` or more. A video with an empty frame is never right.

    Args:
        frames: Video in [0, 1], float [F, 3, H, W].
        direction: Wanted direction, a key of ``DIRECTIONS``.
        scale: Wanted change of size, one of ``SCALES``.

    Raises:
        ConfigError: An unknown motion, or frames of another shape.
    """
    if direction not in DIRECTIONS or scale not in SCALES:
        raise ConfigError(f"Unknown motion '{direction}', '{scale}'; known: {', '.join([*DIRECTIONS, *SCALES])}.")
    track = track_foreground(frames)
    if bool(track.empty.any()):
        nan = float("nan")
        return MotionScore(
            direction="unclear", scale="unclear", direction_right=False, scale_right=False,
            displacement_px=(nan, nan), growth=nan, wobble_px=nan,
        )  # fmt: skip
    values = torch.cat([track.centroid, track.size.log()[:, None]], dim=1)
    change, rest = _fit_line(values)
    dx, dy, growth = float(change[0]), float(change[1]), float(change[2].exp())
    found = _name_direction(dx, dy, MIN_DISPLACEMENT_FRAC * frames.shape[-1])
    size = "grows" if growth >= MIN_GROWTH else "shrinks" if growth <= 1 / MIN_GROWTH else "same"
    return MotionScore(
        direction=found,
        scale=size,
        direction_right=found == direction,
        scale_right=size == scale,
        displacement_px=(dx, dy),
        growth=growth,
        wobble_px=float(rest[:, :2].square().sum(dim=1).mean().sqrt()),
    )


def _name_direction(dx: float, dy: float, threshold_px: float) -> str:
    large, small = max(abs(dx), abs(dy)), min(abs(dx), abs(dy))
    if large < threshold_px:
        return "none"
    if large < DOMINANCE * small:
        return "unclear"
    if abs(dx) > abs(dy):
        return "right" if dx > 0 else "left"
    return "down" if dy > 0 else "up"


def _fit_line(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Least squares over time: change from first to last frame [K], and residuals [F, K]."""
    time = torch.linspace(-0.5, 0.5, len(values), dtype=values.dtype)
    centred = values - values.mean(dim=0)
    slope = (time[:, None] * centred).sum(dim=0) / time.square().sum()
    return slope, centred - time[:, None] * slope
