"""Shares out the captions of the sprite videos: training, search, certify, demo.

Every subject and every motion is trained on, but a held-out caption is a *combination* of the two that training never
saw. The lists are disjoint by caption and fixed by hash.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dit_accel.errors import ConfigError
from dit_accel.prompts import PROMPT_LISTS, load_prompts
from dit_accel.training.sprites import MOTIONS, SUBJECTS, Motion, motion_caption

PROMPTS_VERSION = 1
PROMPTS_SALT = "dit-accel-video-prompts-1"
CERTIFY_CAPTIONS = 200
SEARCH_CAPTIONS = 100

# Chosen by eye: subjects that are drawn well, and every kind of motion.
DEMO = (
    ("red apple", "left", "same"),
    ("penguin", "right", "same"),
    ("frog face", "none", "grows"),
    ("strawberry", "up", "grows"),
    ("lady beetle", "down", "same"),
    ("fox face", "left", "grows"),
    ("octopus", "up", "same"),
    ("watermelon", "right", "shrinks"),
    ("tropical fish", "left", "shrinks"),
    ("panda face", "none", "same"),
    ("sunflower", "none", "shrinks"),
    ("baby chick", "right", "grows"),
)

NOTES = {
    "search": "For tuning schedules and thresholds. Combinations of subject and motion that training never saw.",
    "certify": "For certificates only; never tune on these. Combinations that training never saw.",
    "demo": "For demonstrations: subjects drawn well, chosen by eye; combinations that training never saw.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoCaption:
    """One combination.

    Attributes:
        subject: One of ``SUBJECTS``.
        motion: One of ``MOTIONS``.
    """

    subject: str
    motion: Motion

    @property
    def text(self) -> str:
        """The caption, ``"a red apple moves left"``."""
        return motion_caption(self.subject, self.motion)


def split_captions(subjects: Sequence[str] = SUBJECTS) -> dict[str, list[VideoCaption]]:
    """Share all combinations out into ``train``, ``search``, ``certify`` and ``demo``.

    Raises:
        ConfigError: Too few subjects, or a subject or a motion is left without a training caption.
    """
    demo = [VideoCaption(subject=s, motion=Motion(direction=d, scale=c)) for s, d, c in DEMO if s in subjects]
    rest = [VideoCaption(subject=s, motion=m) for s in subjects for m in MOTIONS]
    rest = sorted((caption for caption in rest if caption not in demo), key=_hash)
    held_out = CERTIFY_CAPTIONS + SEARCH_CAPTIONS
    train = rest[held_out:]
    if {c.subject for c in train} != set(subjects) or {c.motion for c in train} != set(MOTIONS):
        raise ConfigError(f"{len(subjects)} subjects are too few: not each is left in training with each motion.")
    return {
        "train": train,
        "search": rest[CERTIFY_CAPTIONS:held_out],
        "certify": rest[:CERTIFY_CAPTIONS],
        "demo": demo,
    }


def held_out_video_captions(name: str) -> list[VideoCaption]:
    """The captions of a list that ships, ``"search"``, ``"certify"`` or ``"demo"``."""
    labels = load_prompts(name, "video").labels
    rows = zip(labels["subjects"], labels["directions"], labels["scales"], strict=True)
    return [VideoCaption(subject=str(s), motion=Motion(direction=str(d), scale=str(c))) for s, d, c in rows]


def training_video_captions(subjects: Sequence[str] = SUBJECTS) -> list[VideoCaption]:
    """All combinations but those of the lists that ship, in the order of their hashes."""
    held_out = {caption for name in PROMPT_LISTS for caption in held_out_video_captions(name)}
    rest = [VideoCaption(subject=s, motion=m) for s in subjects for m in MOTIONS]
    return sorted((caption for caption in rest if caption not in held_out), key=_hash)


def video_prompt_lists() -> dict[str, dict[str, Any]]:
    """The lists ``search``, ``certify`` and ``demo``, JSON-ready; subjects and motions run along ``prompts``."""
    splits = split_captions()
    return {
        name: {
            "version": PROMPTS_VERSION,
            "kind": "video",
            "note": note,
            "prompts": [caption.text for caption in splits[name]],
            "subjects": [caption.subject for caption in splits[name]],
            "directions": [caption.motion.direction for caption in splits[name]],
            "scales": [caption.motion.scale for caption in splits[name]],
        }
        for name, note in NOTES.items()
    }


def _hash(caption: VideoCaption) -> str:
    return hashlib.sha256(f"{PROMPTS_SALT}:{caption.text}".encode()).hexdigest()
