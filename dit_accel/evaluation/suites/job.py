"""What an evaluation has made so far, on disk. Pictures are files that anyone can look at; numbers lie beside them.

``FOLDER/images/VARIANT/NAME.png`` (of a video a folder of frames), ``FOLDER/progress/``: whose pictures these are, and
what was found out of each chunk of them. A chunk is a batch: drawn again as a whole, its pictures come out the same.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from dit_accel.evaluation.progress_files import claim, read_json, write_json, write_whole
from dit_accel.evaluation.suites.image_files import DamagedImage, read_image, to_tensor
from dit_accel.evaluation.suites.prompt_files import Item
from dit_accel.pipelines.media import to_pil
from dit_accel.plan.fingerprint import digest

if TYPE_CHECKING:
    import torch

WHAT = "an evaluation"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSource:
    """Where the pictures of a variant are.

    Attributes:
        name: Of the variant.
        folder: Of its pictures.
        ours: Whether they were drawn here, so that a damaged one can be drawn again.
        video: Whether each is a folder of frames.
    """

    name: str
    folder: Path
    ours: bool = True
    video: bool = False

    def path(self, item: Item) -> Path:
        """An item's file, or folder of frames."""
        if self.video:
            return self.folder / item.name
        found = [path for suffix in (".png", ".jpg", ".jpeg", ".webp") if (path := self._file(item, suffix)).is_file()]
        return found[0] if found else self._file(item, ".png")

    def _file(self, item: Item, suffix: str) -> Path:
        return self.folder / f"{item.name}{suffix}"

    def is_there(self, item: Item) -> bool:
        """Whether there is something, damaged or not."""
        return self.path(item).exists()

    def read(self, item: Item) -> list[Image.Image]:
        """The image, or all frames.

        Raises:
            DamagedImage: It is not there or cannot be read.
        """
        path = self.path(item)
        frames = sorted(path.glob("*.png")) if self.video else [path]
        if not frames:
            raise DamagedImage("there are no frames")
        images = [read_image(frame) for frame in frames]
        if len({image.size for image in images}) > 1:
            raise DamagedImage("its frames differ in size")
        return images

    def fault(self, item: Item) -> str:
        """Why it cannot be read; empty where it can."""
        try:
            self.read(item)
        except DamagedImage as error:
            return str(error)
        return ""

    def write(self, item: Item, sample: "torch.Tensor") -> None:
        """Keep an image [3, H, W] or a video [F, 3, H, W] as PNG, 8 bit."""
        if not self.video:
            write_whole(self._file(item, ".png"), _png(sample))
            return
        for number, frame in enumerate(sample):
            write_whole(self.folder / item.name / f"{number:04}.png", _png(frame))

    def tensor(self, items: Sequence[Item]) -> "torch.Tensor":
        """Images [B, 3, H, W] or videos [B, F, 3, H, W] in [0, 1], all of one size.

        Raises:
            DamagedImage: One cannot be read, or they differ in size.
        """
        import torch

        read = [self.read(item) for item in items]
        if len({(len(images), images[0].size) for images in read}) > 1:
            raise DamagedImage("they differ in size or number of frames")
        tensors = [to_tensor(images) for images in read]
        return torch.stack(tensors) if self.video else torch.cat(tensors)


class SuiteJob:
    """An evaluation's folder.

    Args:
        folder: Made if need be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.progress = folder / "progress"

    def claim(self, identity: Mapping[str, Any], plans: Mapping[str, str]) -> None:
        """Make sure that pictures which are there are of the same run and plans.

        Raises:
            ConfigError: They are not.
        """
        claim(self.progress / "job.json", identity, WHAT)
        for name, plan in plans.items():
            claim(self.progress / name / "plan.json", {f"plan '{name}'": plan}, WHAT)

    def source(self, name: str, *, video: bool) -> ImageSource:
        """Pictures of a variant that is drawn here."""
        return ImageSource(name=name, folder=self.folder / "images" / name, video=video)

    def note(self, variant: str, kind: str, chunk: int) -> dict[str, Any] | None:
        """What is known of a chunk."""
        return read_json(self._note(variant, kind, chunk))

    def keep_note(self, variant: str, kind: str, chunk: int, data: Mapping[str, Any]) -> None:
        """Keep it."""
        write_json(self._note(variant, kind, chunk), data)

    def features(self, owner: str, kind: str, chunk: int) -> "tuple[torch.Tensor, dict[str, Any]] | None":
        """Features of a chunk and what is to be known of them."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._features(owner, kind, chunk), framework="pt") as file:
                facts: dict[str, Any] = json.loads(file.metadata()["facts"])
                tensor: torch.Tensor = file.get_tensor("features")
                return tensor, facts
        except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError):  # not there, or damaged
            return None

    def keep_features(
        self, owner: str, kind: str, chunk: int, features: "torch.Tensor", facts: Mapping[str, Any]
    ) -> None:
        """Keep them."""
        from safetensors.torch import save

        content = save({"features": features.contiguous()}, metadata={"facts": json.dumps(dict(facts))})
        write_whole(self._features(owner, kind, chunk), content)

    def _note(self, variant: str, kind: str, chunk: int) -> Path:
        return self.progress / variant / kind / f"{chunk:06}.json"

    def _features(self, owner: str, kind: str, chunk: int) -> Path:
        return self.progress / owner / kind / f"{chunk:06}.safetensors"


def key_of(name: str, *facts: object) -> str:
    """A folder's name for numbers that depend on ``facts``."""
    return f"{name}-{digest([str(fact) for fact in facts])[:10]}"


def _png(image: "torch.Tensor") -> bytes:
    import io

    buffer = io.BytesIO()
    to_pil(image).save(buffer, "PNG")
    return buffer.getvalue()
