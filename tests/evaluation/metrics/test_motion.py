"""The motion score reads the generator's own videos back, and is not fooled by reversed, still or blank ones."""

import pytest
import torch

from dit_accel.errors import ConfigError
from dit_accel.evaluation.metrics.motion import DIRECTIONS, SCALES, motion_score, track_foreground
from dit_accel.training import sprites
from dit_accel.training.sprites import MOTIONS, Motion, draw_trajectory, make_video


def sprite() -> torch.Tensor:
    """A disc with a hole and a stalk, premultiplied RGBA."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 60), torch.linspace(-1, 1, 60), indexing="ij")
    alpha = (((x**2 + y**2) < 0.8) & ((x**2 + y**2) > 0.1) | ((x.abs() < 0.1) & (y < 0))).float()
    return torch.stack([0.9 * alpha, 0.2 * alpha, 0.1 * alpha, alpha])


def video(motion: Motion, seed: int = 0) -> torch.Tensor:
    return make_video(sprite(), motion, seed)[0] / 255


def test_names_agree_with_the_generator() -> None:
    assert sprites.DIRECTIONS == DIRECTIONS
    assert sprites.SCALES == SCALES


@pytest.mark.parametrize("motion", MOTIONS, ids=lambda motion: motion.phrase)
def test_real_videos_are_right_and_others_wrong(motion: Motion) -> None:
    for seed in range(6):
        frames = video(motion, seed)
        score = motion_score(frames, motion.direction, motion.scale)
        assert score.right and score.wobble_px < 1
        for other in MOTIONS:
            if other != motion:
                assert not motion_score(frames, other.direction, other.scale).right


def test_reversed_videos_are_wrong() -> None:
    for motion in MOTIONS:
        score = motion_score(video(motion).flip(0), motion.direction, motion.scale)
        assert score.direction_right == (motion.direction == "none")
        assert score.scale_right == (motion.scale == "same")


def test_faint_noise_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    for motion in MOTIONS:
        frames = video(motion)
        noisy = (frames + 0.03 * torch.randn(frames.shape, generator=generator)).clamp(0, 1)
        assert motion_score(noisy, motion.direction, motion.scale).right


def test_a_still_video_only_stays_still() -> None:
    frames = video(Motion(direction="left", scale="grows"))[:1].expand(16, -1, -1, -1)
    for motion in MOTIONS:
        assert motion_score(frames, motion.direction, motion.scale).right == (motion.phrase == "stays still")


def test_a_blank_video_is_never_right() -> None:
    for motion in MOTIONS:
        score = motion_score(torch.ones(16, 3, 64, 64), motion.direction, motion.scale)
        assert not score.direction_right and not score.scale_right


def test_a_diagonal_is_no_direction() -> None:
    frames = torch.ones(16, 3, 64, 64)
    for k in range(16):
        frames[k, :, 10 + 2 * k : 26 + 2 * k, 10 + 2 * k : 26 + 2 * k] = 0.2
    assert motion_score(frames, "right", "same").direction == "unclear"


def test_the_track_follows_the_trajectory() -> None:
    motion = Motion(direction="right", scale="grows")
    path = draw_trajectory(motion, torch.Generator().manual_seed(3))
    track = track_foreground(video(motion, 3))
    step = path.centre[-1] - path.centre[0]
    torch.testing.assert_close((track.centroid[-1] - track.centroid[0])[0].float(), step[0], atol=1.0, rtol=0)
    assert float(track.size[-1] / track.size[0]) == pytest.approx(sprites.GROWTH, rel=0.05)


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="Unknown motion"):
        motion_score(torch.ones(16, 3, 8, 8), "sideways", "same")
    with pytest.raises(ConfigError, match="at least two frames"):
        motion_score(torch.ones(1, 3, 8, 8), "left", "same")
