"""Drawn pictures, kept as files: asked for again they are there at once. Also views that are made from them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageChops, ImageSequence

from dit_accel.app.plans import read_plan_file
from dit_accel.app.points import FrontPoint
from dit_accel.plan.plan import TENSOR_FILE
from dit_accel.version import __version__

if TYPE_CHECKING:
    import torch

    from dit_accel.pipelines.generation import GenerationSettings

SHOWN_PX = 256  # small pictures are enlarged by a whole factor to at least this
STRIP_FRAMES = 4
DIFFERENCE_GAIN = 4


@dataclass(frozen=True, slots=True)
class Kept:
    """A folder of pictures.

    Args:
        folder: Made when the first one is kept.
    """

    folder: Path

    def path(
        self, model: str, point: FrontPoint, prompt: str, seed: int, settings: "GenerationSettings",
        where: Sequence[str],
    ) -> Path:  # fmt: skip
        """The file of a picture; its name says everything that the picture depends on.

        Args:
            model: As for ``Device.draw``, and so is what follows.
            point: Its plan draws.
            prompt: The text.
            seed: Of the noise.
            settings: Of the run.
            where: Type of the device, and of the weights on it.
        """
        asked = [prompt, seed, asdict(settings), *where]
        identity = [model, __version__, plan_digest(point), point.preset, *asked]
        name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:24]
        return self.folder / f"{name}.webp"

    def keep(self, path: Path, sample: "torch.Tensor", fps: float) -> None:
        """Write an image [3, H, W] or a video [F, 3, H, W] without loss."""
        from dit_accel.pipelines.media import to_pil

        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.webp")
        if sample.dim() == 3:
            to_pil(sample).save(part, lossless=True)
        else:
            first, *rest = [to_pil(frame) for frame in sample]
            first.save(part, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0, lossless=True)
        part.replace(path)


def plan_digest(point: FrontPoint) -> str:
    """Digest of what a point's plan does; certifying a plan does not change it."""
    if point.folder is None:
        return ""
    file = read_plan_file(point.folder)
    tensors = point.folder / TENSOR_FILE
    content = json.dumps([file.passes, file.conditions.model_dump()], sort_keys=True).encode()
    return hashlib.sha256(content + (tensors.read_bytes() if tensors.is_file() else b"")).hexdigest()


def frames_of(path: Path) -> list[Image.Image]:
    """All frames of a kept picture; one for an image."""
    with Image.open(path) as file:
        return [frame.convert("RGB") for frame in ImageSequence.Iterator(file)]


def enlarged(picture: Image.Image) -> Image.Image:
    """Small pictures by a whole factor, without smoothing; large ones as they are."""
    factor = max(1, -(-SHOWN_PX // max(picture.size)))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def still(path: Path) -> Image.Image:
    """One picture for a kept one: an image as it is, of a video four frames in a square."""
    frames = frames_of(path)
    if len(frames) == 1:
        return enlarged(frames[0])
    chosen = [frames[round(k * (len(frames) - 1) / (STRIP_FRAMES - 1))] for k in range(STRIP_FRAMES)]
    width, height = chosen[0].size
    sheet = Image.new("RGB", (2 * width, 2 * height))
    for place, frame in enumerate(chosen):
        sheet.paste(frame, (width * (place % 2), height * (place // 2)))
    return enlarged(sheet)


def difference(one: list[Image.Image], other: list[Image.Image]) -> list[Image.Image]:
    """Frame by frame the absolute difference, four times as strong; black is equal."""
    pairs = zip(one, other, strict=False)
    return [ImageChops.difference(a, b).point(lambda v: min(255, DIFFERENCE_GAIN * v)) for a, b in pairs]


def looping(frames: list[Image.Image], path: Path, fps: float) -> str:
    """Write frames as a file that plays again and again, enlarged: a .webp; returns its path."""
    first, *rest = [enlarged(frame) for frame in frames]
    options: dict[str, Any] = {"save_all": True, "append_images": rest, "duration": round(1000 / fps), "loop": 0}
    path.parent.mkdir(parents=True, exist_ok=True)
    first.save(path, lossless=True, **(options if rest else {}))
    return str(path)


def prune(folder: Path, keep: int) -> None:
    """Leave the newest so many files of a folder of passing pictures."""
    files = sorted(folder.glob("*.webp"), key=lambda path: path.stat().st_mtime_ns)
    for path in files[: max(0, len(files) - keep)]:
        path.unlink(missing_ok=True)
