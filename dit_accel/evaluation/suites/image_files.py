"""Image files of any origin, read the same way: RGB, what is transparent on white, damaged ones told apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from PIL import Image

from dit_accel.errors import ConfigError

if TYPE_CHECKING:
    import torch

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
WHITE = (255, 255, 255, 255)
Crop = Literal["none", "center"]


class DamagedImage(ConfigError):
    """A file that cannot be read as an image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """What is done to real and generated images alike before the feature network resizes them to its own size.

    Attributes:
        crop: ``center``: the largest square in the middle.
        size_px: Then resized to so many pixels a side by Pillow, bicubic with its antialiasing, rounded to 8 bit;
            ``None``: left as it is. 299 is what Parmar et al. 2022 ("clean-fid") ask for InceptionV3, but for the
            rounding.
    """

    crop: Crop = "none"
    size_px: int | None = None

    def __post_init__(self) -> None:
        if self.crop not in ("none", "center"):
            raise ConfigError(f"crop is 'none' or 'center', not '{self.crop}'")
        if self.size_px is not None and self.size_px < 1:
            raise ConfigError(f"wanted a size of at least 1 pixel, got {self.size_px}")

    @property
    def crop_words(self) -> str:
        """For a report."""
        return "the largest square in the middle" if self.crop == "center" else "none"

    @property
    def resize_words(self) -> str:
        """For a report, before what the network does; may be empty."""
        return "" if self.size_px is None else f"to {self.size_px} x {self.size_px} px, Pillow's bicubic, 8 bit; then "

    def apply(self, image: Image.Image) -> Image.Image:
        """Crop and resize."""
        if self.crop == "center":
            edge = min(image.size)
            left, top = (image.width - edge) // 2, (image.height - edge) // 2
            image = image.crop((left, top, left + edge, top + edge))
        if self.size_px is not None:
            image = image.resize((self.size_px, self.size_px), Image.Resampling.BICUBIC)
        return image


AS_IT_IS = Preparation()


def list_images(folder: Path) -> list[Path]:
    """Image files of a folder and of those in it, in the order of their names.

    Raises:
        ConfigError: There is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise ConfigError(f"no folder of images at '{folder}'")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise ConfigError(f"the folder '{folder}' holds no image ({', '.join(SUFFIXES)})")
    return found


def read_image(path: Path) -> Image.Image:
    """An RGB image.

    Raises:
        DamagedImage: It is not there, is cut short, or is no image.
    """
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                own = image.convert("RGBA")
                return Image.alpha_composite(Image.new("RGBA", own.size, WHITE), own).convert("RGB")
            converted: Image.Image = image.convert("RGB")
            return converted
    except FileNotFoundError as error:
        raise DamagedImage("there is no such file") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DamagedImage(f"not a readable image ({error})") from error


def to_tensor(images: Sequence[Image.Image]) -> "torch.Tensor":
    """Float32 [B, 3, H, W] in [0, 1], of images of one size."""
    import numpy as np
    import torch

    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 for image in images])
