"""A side-by-side picture of a comparison: a row for each variant, a column for each image or video."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from dit_accel.evaluation.reports.report import Report, Variant
from dit_accel.pipelines.media import save_video, to_pil

if TYPE_CHECKING:
    import torch

CELL_PX = 192  # smaller images are enlarged by a whole factor, without smoothing, to about this
STRIP_FRAMES, STRIP_CELL_PX = 4, 128  # of a video where it stands still
GAP_PX = 8
LABEL_PX = 210
FONT_PX = 16
SMALL_FONT_PX = 13
INK, GREY, PAPER = (20, 20, 20), (110, 110, 110), (255, 255, 255)


def side_by_side(
    report: Report, images: "Mapping[str, torch.Tensor]", *, max_columns: int = 6, order: Sequence[str] | None = None
) -> Image.Image:
    """Draw the grid; of a video some frames.

    Args:
        report: Its variants name and label the rows.
        images: Variant name to images, [B, 3, H, W], or videos, [B, F, 3, H, W], in [0, 1].
        max_columns: Images or videos shown of each variant.
        order: Variants to show, top to bottom; ``None``: all.
    """
    rows = [report.variant(name) for name in order] if order else list(report.variants)
    columns = min(max_columns, report.num_images)
    cells = {row.name: [_cell(sample) for sample in images[row.name][:columns]] for row in rows}
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


def save_side_by_side(report: Report, images: "Mapping[str, torch.Tensor]", path: Path, *, fps: float) -> list[str]:
    """Write the grid as ``path``, a .png, and for videos also as a .webp beside it that plays; returns the paths.

    Args:
        report: As for :func:`side_by_side`.
        images: As for :func:`side_by_side`.
        path: The picture.
        fps: Frames a second of the .webp.
    """
    side_by_side(report, images).save(path)
    if report.settings.num_frames is None:
        return [str(path)]
    moving = path.with_suffix(".webp")
    at = [{name: videos[:, frame] for name, videos in images.items()} for frame in range(report.settings.num_frames)]
    save_video([side_by_side(report, stills) for stills in at], moving, fps=fps)
    return [str(path), str(moving)]


def _title(variant: Variant) -> str:
    if variant.kind in ("plan", "images"):
        return f'"{variant.name}"'
    return f"plain, {variant.num_inference_steps} steps"


def _facts(variant: Variant) -> list[str]:
    facts = [] if variant.times is None else [f"{variant.times.median_s:.2f} s"]
    if variant.speedup is not None:
        facts.append(f"{facts.pop()}, {variant.speedup.ratio:.2f} times as fast")
    if variant.fidelity is not None:
        facts.append(f"PSNR {variant.fidelity.psnr_db.mean:.1f} dB")
        facts.append(f"SSIM {variant.fidelity.ssim.mean:.3f}")
    if variant.kind == "fewer_steps":
        facts.append(f'rival of "{variant.rival_of}"')
    if variant.kind == "plain":
        facts.append("the reference")
    return facts


def _cell(sample: "torch.Tensor") -> Image.Image:
    """An image, or frames from a video's first to its last in a row."""
    if sample.dim() == 3:
        return _scaled(sample, CELL_PX)
    count = min(STRIP_FRAMES, len(sample))
    chosen = [round(k * (len(sample) - 1) / max(1, count - 1)) for k in range(count)]
    frames = [_scaled(sample[number], STRIP_CELL_PX) for number in chosen]
    width, height = frames[0].size
    strip = Image.new("RGB", (count * (width + 2) - 2, height), PAPER)
    for number, frame in enumerate(frames):
        strip.paste(frame, (number * (width + 2), 0))
    return strip


def _scaled(image: "torch.Tensor", cell_px: int) -> Image.Image:
    edge = max(image.shape[-2:])
    picture = to_pil(image, zoom=max(1, cell_px // edge))
    if edge > 2 * cell_px:
        picture.thumbnail((2 * cell_px, 2 * cell_px), Image.Resampling.LANCZOS)
    return picture


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
