"""Makes the videos that the embedded video pipeline is trained on: emoji that move, grow and shrink, with captions.

A sprite moves on a straight line over a white canvas and changes its size at a constant rate. Everything random comes
from the generator given, so a seed names a video. The motion is known exactly, which is what makes the trained
pipeline measurable: ``dit_accel.evaluation.metrics.motion`` reads it back from the frames.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from dit_accel.errors import ConfigError, did_you_mean
from dit_accel.evaluation.metrics.motion import DIRECTIONS, SCALES
from dit_accel.training.concepts import split_concepts, with_article
from dit_accel.training.data import load_concepts, load_files

NUM_FRAMES = 16
CANVAS_PX = 64
SUPERSAMPLE = 2
MARGIN_PX = 1.0
SIZE_PX = (27.0, 33.0)
SMALL_SIZE_PX = (20.5, 23.0)
GROWTH = 1.6
DISPLACEMENT_PX = (18.0, 28.0)
OFF_CENTRE_PX = 8.0
ALPHA_VISIBLE = 0.1

# Chosen by eye from the training concepts: recognisable at 30 px, distinct in shape or colour.
SUBJECTS = (
    "red apple", "green apple", "banana", "lemon", "tangerine", "pear", "peach", "strawberry", "watermelon",
    "aubergine", "carrot", "mushroom", "hamburger", "doughnut", "hot pepper", "evergreen tree", "tulip", "sunflower",
    "cherry blossom", "maple leaf", "four leaf clover", "kiwifruit", "broccoli", "egg", "lollipop", "cheese wedge",
    "penguin", "frog face", "cat face", "panda face", "fox face", "tiger face", "lion face", "bear face", "koala",
    "octopus", "lady beetle", "baby chick", "bird", "fish", "tropical fish", "whale", "turtle", "owl", "crab",
    "pig nose", "jellyfish", "honeybee",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """What a sprite does.

    Attributes:
        direction: A key of ``DIRECTIONS``.
        scale: One of ``SCALES``.
    """

    direction: str
    scale: str

    def __post_init__(self) -> None:
        """Check the names."""
        for value, known in ((self.direction, DIRECTIONS), (self.scale, SCALES)):
            if value not in known:
                raise ConfigError(f"Unknown motion '{value}'; known: {', '.join(known)}.{did_you_mean(value, known)}")

    @property
    def phrase(self) -> str:
        """The verb phrase of a caption: ``"moves left and grows"``, ``"shrinks"``, ``"stays still"``."""
        parts = [] if self.direction == "none" else [f"moves {self.direction}"]
        parts += [] if self.scale == "same" else [self.scale]
        return " and ".join(parts) or "stays still"


MOTIONS = tuple(Motion(direction=direction, scale=scale) for direction in DIRECTIONS for scale in SCALES)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpriteTrajectory:
    """Where the sprite is in each frame: the ground truth of a video.

    Attributes:
        centre: Centre of the sprite's square in pixels (x to the right, y down), float32 [F, 2].
        size: Edge of that square in pixels, float32 [F].
    """

    centre: torch.Tensor
    size: torch.Tensor


def motion_caption(subject: str, motion: Motion) -> str:
    """Caption of a video: ``"a red apple moves left and grows"``."""
    return f"{with_article(subject)} {motion.phrase}"


def load_sprites(data_dir: Path, subjects: Sequence[str] = SUBJECTS, style: str = "google") -> list[torch.Tensor]:
    """Read sprites with their transparency, cropped to what is visible and centred in a square.

    Args:
        data_dir: Folder of the tarballs, or a file that ``pack_data`` wrote.
        subjects: Names of training concepts.
        style: A key of ``SOURCES``.

    Returns:
        Premultiplied RGBA in [0, 1], one float32 [4, S, S] a subject, S the longer edge of the visible part.

    Raises:
        ConfigError: A subject is not a training concept, or the style lacks it.
    """
    train = {concept.name: concept.code for concept in split_concepts(load_concepts(data_dir))[0]}
    for subject in subjects:
        if subject not in train:
            raise ConfigError(f"'{subject}' is not a training concept.{did_you_mean(subject, train)}")
    files = load_files(data_dir, style, [train[subject] for subject in subjects])
    if missing := [subject for subject in subjects if train[subject] not in files]:
        raise ConfigError(f"The style '{style}' has no image of {', '.join(missing)}.")
    return [decode_sprite(files[train[subject]]) for subject in subjects]


def decode_sprite(data: bytes) -> torch.Tensor:
    """Decode PNG or WebP bytes to premultiplied RGBA, cropped to the visible part, float32 [4, S, S]."""
    rgba = torch.from_numpy(np.array(Image.open(io.BytesIO(data)).convert("RGBA"))).permute(2, 0, 1) / 255
    rows, columns = (rgba[3] > ALPHA_VISIBLE).nonzero(as_tuple=True)
    sprite = rgba[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    sprite = torch.cat([sprite[:3] * sprite[3:], sprite[3:]])
    height, width = sprite.shape[1:]
    edge = max(height, width)
    top, left = (edge - height) // 2, (edge - width) // 2
    return F.pad(sprite, (left, edge - width - left, top, edge - height - top))


def draw_trajectory(motion: Motion, generator: torch.Generator, num_frames: int = NUM_FRAMES) -> SpriteTrajectory:
    """Draw a trajectory on which the whole sprite stays inside the canvas.

    Args:
        motion: Direction and change of size.
        generator: Source of the start, the distance and the size.
        num_frames: Frames F.
    """
    u = torch.rand(4, generator=generator).tolist()
    low, high = SIZE_PX if motion.scale == "same" else SMALL_SIZE_PX
    first = last = low + (high - low) * u[0]
    if motion.scale != "same":
        last = first * GROWTH
    if motion.scale == "shrinks":
        first, last = last, first
    step = torch.tensor(DIRECTIONS[motion.direction]) * (
        DISPLACEMENT_PX[0] + (DISPLACEMENT_PX[1] - DISPLACEMENT_PX[0]) * u[1]
    )
    middle = []
    for axis in range(2):
        half = float(step[axis]) / 2
        inner = [MARGIN_PX + first / 2 + half, MARGIN_PX + last / 2 - half]
        outer = [CANVAS_PX - MARGIN_PX - first / 2 + half, CANVAS_PX - MARGIN_PX - last / 2 - half]
        start = max(*inner, CANVAS_PX / 2 - OFF_CENTRE_PX)
        end = min(*outer, CANVAS_PX / 2 + OFF_CENTRE_PX)
        middle.append(start + (end - start) * u[2 + axis])
    time = torch.linspace(0, 1, num_frames)
    centre = torch.tensor(middle) + (time[:, None] - 0.5) * step
    return SpriteTrajectory(centre=centre, size=first + (last - first) * time)


def render(sprite: torch.Tensor, trajectory: SpriteTrajectory) -> torch.Tensor:
    """Draw a sprite along a trajectory on white, supersampled against aliasing.

    Args:
        sprite: Premultiplied RGBA, float32 [4, S, S].
        trajectory: Where, F frames.

    Returns:
        Frames, uint8 [F, 3, CANVAS_PX, CANVAS_PX].
    """
    frames = len(trajectory.size)
    fine = CANVAS_PX * SUPERSAMPLE
    pixels = (torch.arange(fine) + 0.5) / SUPERSAMPLE
    # Sprite coordinates run from -1 to 1 over its edge.
    xy = (pixels[None, None] - trajectory.centre[:, :, None]) * (2 / trajectory.size)[:, None, None]
    x, y = xy[:, 0, None, :].expand(-1, fine, -1), xy[:, 1, :, None].expand(-1, -1, fine)
    grid = torch.stack([x, y], dim=-1)
    drawn = F.grid_sample(sprite.expand(frames, -1, -1, -1), grid, align_corners=False)
    drawn = F.avg_pool2d(drawn, SUPERSAMPLE)
    flat = drawn[:, :3] + (1 - drawn[:, 3:])
    return (flat.clamp(0, 1) * 255).round().to(torch.uint8)


def make_video(sprite: torch.Tensor, motion: Motion, seed: int) -> tuple[torch.Tensor, SpriteTrajectory]:
    """Draw the video that a seed names: frames, uint8 [F, 3, CANVAS_PX, CANVAS_PX], and its trajectory."""
    trajectory = draw_trajectory(motion, torch.Generator().manual_seed(seed))
    return render(sprite, trajectory), trajectory


def draw_single_frames(sprites: Sequence[torch.Tensor], count: int, seed: int) -> torch.Tensor:
    """Draw single frames of random videos, uint8 [count, 3, CANVAS_PX, CANVAS_PX]; trains the autoencoder."""
    generator = torch.Generator().manual_seed(seed)
    frames = []
    for k in range(count):
        motion = MOTIONS[int(torch.randint(len(MOTIONS), (), generator=generator))]
        path = draw_trajectory(motion, generator)
        at = int(torch.randint(NUM_FRAMES, (), generator=generator))
        single = SpriteTrajectory(centre=path.centre[at : at + 1], size=path.size[at : at + 1])
        frames.append(render(sprites[k % len(sprites)], single))
    return torch.cat(frames)
