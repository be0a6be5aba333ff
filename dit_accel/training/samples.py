"""Sample sheets: many small images in one PNG."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image


def image_sheet(images: torch.Tensor, *, columns: int, zoom: int = 1, gap_px: int = 2) -> Image.Image:
    """Lay images out in rows.

    Args:
        images: Float images in [-1, 1], shape [M, 3, H, W].
        columns: Images a row.
        zoom: Whole-number enlargement (nearest neighbour).
        gap_px: Grey gap between images, in pixels before the enlargement.
    """
    m, _, h, w = images.shape
    rows = -(-m // columns)
    sheet = torch.full((3, rows * (h + gap_px) + gap_px, columns * (w + gap_px) + gap_px), 200, dtype=torch.uint8)
    pixels = ((images.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    for k, image in enumerate(pixels):
        top, left = gap_px + (k // columns) * (h + gap_px), gap_px + (k % columns) * (w + gap_px)
        sheet[:, top : top + h, left : left + w] = image
    picture = Image.fromarray(sheet.permute(1, 2, 0).numpy())
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)


def save_sheet(images: torch.Tensor, path: Path, *, columns: int, zoom: int = 1) -> None:
    """Write ``image_sheet`` to a PNG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image_sheet(images, columns=columns, zoom=zoom).save(path)


def spread(items: Sequence[str], count: int) -> list[str]:
    """``count`` items evenly spread over the list; all of them when there are fewer."""
    count = min(count, len(items))
    return [items[k * len(items) // count] for k in range(count)]
