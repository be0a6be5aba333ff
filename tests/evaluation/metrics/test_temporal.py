"""Scores over time on videos whose answer is known."""

from types import SimpleNamespace

import pytest
import torch
from sample_pictures import noisy, pictures

from dit_accel.errors import ConfigError
from dit_accel.evaluation.metrics.temporal import (
    GREY_LEVEL,
    flicker,
    flicker_ratio,
    motion_right,
    temporal_error,
    temporal_flickering,
)


def still(frames: int = 6) -> torch.Tensor:
    return pictures(count=2, px=16)[:, None].repeat(1, frames, 1, 1, 1) * 0.6 + 0.2


def blinking(videos: torch.Tensor, by: float) -> torch.Tensor:
    sign = torch.tensor([1.0, -1.0]).repeat(videos.shape[1])[: videos.shape[1]]
    return videos + by * sign.view(-1, 1, 1, 1)


def fading(videos: torch.Tensor, by: float) -> torch.Tensor:
    return videos + by * torch.arange(videos.shape[1]).view(-1, 1, 1, 1)


def test_known_values() -> None:
    videos = still()
    assert temporal_flickering(videos) == pytest.approx((1, 1))
    assert flicker(videos) == pytest.approx((0, 0), abs=1e-7)
    assert temporal_flickering(blinking(videos, 0.1)) == pytest.approx((0.8, 0.8), abs=1e-6)
    assert flicker(blinking(videos, 0.1)) == pytest.approx((0.4, 0.4), abs=1e-6)
    assert temporal_flickering(fading(videos, 0.02)) == pytest.approx((0.98, 0.98), abs=1e-6)


def test_vbench_formula_in_eight_bit() -> None:
    levels = (still() * 255).round()
    levels[:, 1::2] += 3
    mae = (levels[:, 1:] - levels[:, :-1]).abs().mean(dim=(1, 2, 3, 4))
    assert temporal_flickering(levels / 255) == pytest.approx(((255 - mae) / 255).tolist(), abs=1e-6)


def test_a_steady_fade_is_no_flicker_and_blinking_is() -> None:
    videos = still()
    assert flicker_ratio(fading(videos, 0.02), videos) == pytest.approx((1, 1), abs=1e-4)
    assert flicker_ratio(blinking(videos, 0.1), videos) == pytest.approx((0.4 / GREY_LEVEL + 1,) * 2, rel=1e-4)
    assert flicker_ratio(videos, videos) == (1, 1)
    some, more = (flicker_ratio(noisy(videos, sigma), videos) for sigma in (0.02, 0.1))
    assert all(1 < low < high for low, high in zip(some, more, strict=True))


def test_an_error_that_stands_still_is_no_temporal_error() -> None:
    videos = fading(still(), 0.01)
    assert temporal_error(videos + 0.1, videos) == pytest.approx((0, 0), abs=1e-6)
    assert temporal_error(blinking(videos, 0.1), videos) == pytest.approx((0.2, 0.2), abs=1e-6)


def test_motion_is_judged_video_by_video() -> None:
    """``judge`` stands for ``motion_score``, which has this signature."""
    seen = []

    def judge(frames: torch.Tensor, direction: str, scale: str) -> SimpleNamespace:
        seen.append((tuple(frames.shape), direction, scale))
        return SimpleNamespace(right=direction == "left")

    wanted = [("left", "same"), ("up", "grows")]
    assert motion_right(still(), wanted, judge) == (1.0, 0.0)
    assert seen == [((6, 3, 16, 16), "left", "same"), ((6, 3, 16, 16), "up", "grows")]


def test_bad_videos_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 3 frames"):
        flicker(still(frames=2))
    with pytest.raises(ConfigError, match="differ in shape"):
        temporal_error(still(6), still(5))
    with pytest.raises(ConfigError, match="a motion for each video"):
        motion_right(still(), [], lambda *_: SimpleNamespace(right=True))
