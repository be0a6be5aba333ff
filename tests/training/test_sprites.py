"""Sprite videos: inside the canvas, on the stated path, the same for the same seed; captions shared out for good."""

import json
from pathlib import Path

import pytest
import torch

import dit_accel
from dit_accel.errors import ConfigError
from dit_accel.training.concepts import is_held_out
from dit_accel.training.sprites import (
    CANVAS_PX,
    DIRECTIONS,
    DISPLACEMENT_PX,
    GROWTH,
    MOTIONS,
    NUM_FRAMES,
    SUBJECTS,
    Motion,
    draw_trajectory,
    make_video,
    motion_caption,
)
from dit_accel.training.video_prompts import split_captions, training_video_captions, video_prompt_lists

VIDEO_PROMPTS = Path(dit_accel.__file__).parent / "prompts" / "video"


@pytest.mark.parametrize("motion", MOTIONS, ids=lambda motion: motion.phrase)
def test_the_sprite_stays_inside_and_does_what_the_motion_says(motion: Motion) -> None:
    for seed in range(50):
        path = draw_trajectory(motion, torch.Generator().manual_seed(seed))
        assert path.centre.shape == (NUM_FRAMES, 2) and path.size.shape == (NUM_FRAMES,)
        half = path.size[:, None] / 2
        assert (path.centre - half).min() >= 0 and (path.centre + half).max() <= CANVAS_PX
        step = path.centre[-1] - path.centre[0]
        low, high = DISPLACEMENT_PX
        for axis, sign in enumerate(DIRECTIONS[motion.direction]):
            assert low - 1e-3 <= float(step[axis]) * sign <= high + 1e-3 if sign else abs(float(step[axis])) < 1e-3
        growth = {"same": 1.0, "grows": GROWTH, "shrinks": 1 / GROWTH}[motion.scale]
        assert float(path.size[-1] / path.size[0]) == pytest.approx(growth, rel=1e-3)


def test_a_seed_names_a_video_and_white_stays_white() -> None:
    sprite = torch.cat([torch.zeros(3, 40, 40), torch.ones(1, 40, 40)])
    frames, path = make_video(sprite, MOTIONS[0], 5)
    again, _ = make_video(sprite, MOTIONS[0], 5)
    other, _ = make_video(sprite, MOTIONS[0], 6)
    assert frames.shape == (NUM_FRAMES, 3, CANVAS_PX, CANVAS_PX) and frames.dtype == torch.uint8
    assert torch.equal(frames, again) and not torch.equal(frames, other)
    assert set(frames.flatten().tolist()) >= {0, 255}
    black = (255 - frames[0, 0].double()).sum() / 255
    assert float(black) == pytest.approx(float(path.size[0]) ** 2, rel=0.02), "a black square covers its own area"


def test_captions() -> None:
    phrases = [motion.phrase for motion in MOTIONS]
    assert len(set(phrases)) == 15
    assert motion_caption("egg", Motion(direction="up", scale="grows")) == "an egg moves up and grows"
    assert motion_caption("red apple", Motion(direction="none", scale="same")) == "a red apple stays still"
    with pytest.raises(ConfigError, match="Did you mean 'left'"):
        Motion(direction="lefft", scale="same")


def test_subjects_are_training_concepts() -> None:
    assert len(set(SUBJECTS)) == len(SUBJECTS) == 48
    assert not any(is_held_out(name) for name in SUBJECTS)


def test_captions_are_shared_out_without_overlap() -> None:
    splits = split_captions()
    assert {name: len(items) for name, items in splits.items()} == {
        "train": 408,
        "search": 100,
        "certify": 200,
        "demo": 12,
    }
    texts = [caption.text for items in splits.values() for caption in items]
    assert len(set(texts)) == len(texts) == len(SUBJECTS) * len(MOTIONS)
    with pytest.raises(ConfigError, match="too few"):
        split_captions(SUBJECTS[:21])


def test_the_lists_that_ship_are_these() -> None:
    for name, content in video_prompt_lists().items():
        assert json.loads((VIDEO_PROMPTS / f"{name}.json").read_text()) == content


def test_training_captions_are_what_the_lists_leave() -> None:
    assert training_video_captions() == split_captions()["train"]
    more = training_video_captions([*SUBJECTS, "rose"])
    assert len(more) == len(training_video_captions()) + len(MOTIONS)
