"""A comparison grid: a column for each prompt, a row for each point, the numbers of its measurement beside it."""

import time
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from dit_accel.app import show
from dit_accel.app.points import Front, FrontPoint
from dit_accel.app.views import Explorer
from dit_accel.app.work import Tell
from dit_accel.plan.facts import SPEEDUP, interval_words, metric_facts

CELL_PX, GAP_PX, LABEL_PX, HEADER_PX, FOOTER_PX = 192, 8, 250, 34, 30
BIG_PX, SMALL_PX = 17, 13
INK, GREY, PAPER = (20, 20, 20), (100, 100, 100), (255, 255, 255)
NUM_PROMPTS = 4


def comparison_grid(
    explorer: Explorer, front: Front, metric: str, owner: str, tell: Tell = lambda words, share: None
) -> Path:
    """Draw what is not kept yet, and write the grid as PNG; returns its path.

    Args:
        explorer: Draws.
        front: Its plain run, plans, and plain with fewer steps in their time.
        metric: Whose numbers are written.
        owner: Who may stop it.
        tell: Told how far it is.

    Raises:
        BusyError: The device has another job.
    """
    points = show.thumbnails(front)
    prompts = explorer.prompts(front, front.points[0])[:NUM_PROMPTS]
    size = (LABEL_PX + len(prompts) * (CELL_PX + GAP_PX), HEADER_PX + len(points) * (CELL_PX + GAP_PX) + FOOTER_PX)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    big, small = ImageFont.load_default(BIG_PX), ImageFont.load_default(SMALL_PX)
    for column, shown in enumerate(prompts):
        words = f"{shown.prompt} ({shown.place})"
        draw.text((LABEL_PX + column * (CELL_PX + GAP_PX), 9), words[:34], fill=INK, font=small)
    wanted = [(point, shown) for point in points for shown in prompts]
    for number, (point, picture) in enumerate(explorer.draw_all(front, wanted, owner)):
        row, column = divmod(number, len(prompts))
        tell(f"drawing the grid: {number + 1} of {len(wanted)}", (number + 1) / len(wanted))
        top = HEADER_PX + row * (CELL_PX + GAP_PX)
        if column == 0:
            draw.text((GAP_PX, top + 4), point.label, fill=INK, font=big)
            for line, words in enumerate(_facts(point, metric)):
                draw.text((GAP_PX, top + 30 + 19 * line), words, fill=GREY, font=small)
        if picture is not None:
            cell = picture.resize((CELL_PX, CELL_PX), Image.Resampling.NEAREST)
            sheet.paste(cell, (LABEL_PX + column * (CELL_PX + GAP_PX), top))
    footer = f"{front.model} on {front.machine}; numbers are those of the reports, pictures were drawn here"
    draw.text((GAP_PX, size[1] - 22), footer, fill=GREY, font=small)
    folder = explorer.kept.folder.parent / "grids"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{front.model.replace('/', '--')}-{time.strftime('%Y%m%d-%H%M%S')}.png"
    sheet.save(path)
    return path


def _facts(point: FrontPoint, metric: str) -> list[str]:
    if point.kind == "plain":
        return ["the reference"]
    facts, measured = metric_facts(metric), point.errors.get(metric)
    lines = [] if point.ratio is None else [interval_words(SPEEDUP, point.ratio, point.ratio_ci95)]
    if measured is not None:
        mean, low, high, worst = (
            show.number(metric, value) for value in (measured.mean, *measured.ci95, measured.worst5)
        )
        lines += [f"{facts.label} {mean}{facts.unit} [{low}, {high}]", f"worst 5 % {worst}{facts.unit}, n = {point.n}"]
    lines += ["not measured"] if not lines else []
    return [*lines, *([point.state] if point.state else [])]
