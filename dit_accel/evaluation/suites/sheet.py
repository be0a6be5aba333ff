"""The first pictures of every variant side by side, since people would rather look than read."""

import itertools
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from dit_accel.evaluation.compare.pictures import save_side_by_side
from dit_accel.evaluation.reports.report import Report
from dit_accel.evaluation.suites.image_files import to_tensor
from dit_accel.evaluation.suites.job import ImageSource
from dit_accel.evaluation.suites.prompt_files import Item

SHOWN = 6
SHEET_FILE = "sheet.png"


def save_sheet(
    report: Report, sources: Sequence[ImageSource], items: Sequence[Item], folder: Path, *, fps: float
) -> None:
    """Write ``sheet.png``, of videos also ``sheet.webp`` which plays.

    Args:
        report: Of the evaluation.
        sources: The variants' pictures.
        items: All that the report is of; the first that can be read are shown, in the first variant's size.
        folder: Where to.
        fps: Frames a second.
    """
    import torch

    readable = (item for item in items if not any(source.fault(item) for source in sources))
    shown = list(itertools.islice(readable, SHOWN))
    size = sources[0].read(shown[0])[0].size
    pictures = {}
    for source in sources:
        samples = [to_tensor([_fitted(image, size) for image in source.read(item)]) for item in shown]
        pictures[source.name] = torch.stack(samples) if source.video else torch.cat(samples)
    save_side_by_side(report, pictures, folder / SHEET_FILE, fps=fps)


def _fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
