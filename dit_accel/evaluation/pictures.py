"""A side-by-side picture of a comparison: a row for each variant, a column for each image."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from dit_accel.evaluation.report import Report, Variant

if TYPE_CHECKING:
    import torch

CELL_PX = 192  # smaller images are enlarged by a whole factor, without smoothing, to about this
GAP_PX = 8
LABEL_PX = 210
FONT_PX = 16
SMALL_FONT_PX = 13
INK, GREY, PAPER = (20, 20, 20), (110, 110, 110), (255, 255, 255)


def to_pil(image: "torch.Tensor") -> Image.Image:
    """An 8-bit picture of an image tensor, shape [3, H, W], in [0, 1]."""
    array = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array)


def side_by_side(
    report: Report, images: "Mapping[str, torch.Tensor]", *, max_columns: int = 6, order: Sequence[str] | None = None
) -> Image.Image:
    """Draw the grid.

    Args:
        report: Its variants name and label the rows.
        images: Variant name to images, [B, 3, H, W], in [0, 1].
        max_columns: Images shown of each variant.
        order: Variants to show, top to bottom; ``None``: all.
    """
    rows = [report.variant(name) for name in order] if order else list(report.variants)
    columns = min(max_columns, report.num_images)
    cells = {row.name: [_enlarged(to_pil(image)) for image in images[row.name][:columns]] for row in rows}
    width, height = cells[rows[0].name][0].size
    header = 2 * (SMALL_FONT_PX + 6)
    size = (LABEL_PX + columns * (width + GAP_PX), header + len(rows) * (height + GAP_PX))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    big, small = ImageFont.load_default(FONT_PX), ImageFont.load_default(SMALL_FONT_PX)
    for column, sample in enumerate(report.samples[:columns]):
        left = LABEL_PX + column * (width + GAP_PX)
        for line_number, line in enumerate(_wrapped(sample.prompt, small, width, lines=2)):
            draw.text((left, 2 + line_number * (SMALL_FONT_PX + 4)), line, fill=INK, font=small)
    for row_number, row in enumerate(rows):
        top = header + row_number * (height + GAP_PX)
        draw.text((GAP_PX, top + 4), _title(row), fill=INK, font=big)
        for line_number, line in enumerate(_facts(row)):
            draw.text((GAP_PX, top + 28 + line_number * (SMALL_FONT_PX + 6)), line, fill=GREY, font=small)
        for column, cell in enumerate(cells[row.name]):
            sheet.paste(cell, (LABEL_PX + column * (width + GAP_PX), top))
    return sheet


def save_pictures(images: "Mapping[str, torch.Tensor]", folder: Path) -> list[Path]:
    """Write every image as ``<variant>/<number>.png``; returns the paths."""
    paths = []
    for name, batch in images.items():
        place = folder / name.replace(" ", "-")
        place.mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(batch):
            paths.append(place / f"{number:03d}.png")
            to_pil(image).save(paths[-1])
    return paths


def _title(variant: Variant) -> str:
    return {"plain": f"plain, {variant.num_inference_steps} steps", "plan": f'"{variant.name}"'}.get(
        variant.kind, f"plain, {variant.num_inference_steps} steps"
    )


def _facts(variant: Variant) -> list[str]:
    facts = [f"{variant.times.median_s:.2f} s"]
    if variant.speedup is not None:
        facts[0] += f", {variant.speedup.ratio:.2f} times as fast"
    if variant.fidelity is not None:
        facts.append(f"PSNR {variant.fidelity.psnr_db.mean:.1f} dB")
        facts.append(f"SSIM {variant.fidelity.ssim.mean:.3f}")
    if variant.kind == "fewer_steps":
        facts.append(f'rival of "{variant.rival_of}"')
    if variant.kind == "plain":
        facts.append("the reference")
    return facts


def _enlarged(image: Image.Image) -> Image.Image:
    factor = max(1, CELL_PX // max(image.size))
    if factor > 1:
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    if max(image.size) > 2 * CELL_PX:
        image.thumbnail((2 * CELL_PX, 2 * CELL_PX), Image.Resampling.LANCZOS)
    return image


def _wrapped(text: str, font: "ImageFont.FreeTypeFont | ImageFont.ImageFont", width: int, *, lines: int) -> list[str]:
    done: list[str] = [""]
    for word in text.split():
        longer = f"{done[-1]} {word}".strip()
        if done[-1] and font.getlength(longer) > width:
            done.append(word)
        else:
            done[-1] = longer
    if len(done) > lines:
        done = [*done[: lines - 1], done[lines - 1] + " ..."]
    return done
