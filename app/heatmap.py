"""A plan as a heat map: for every step and site whether it is computed, reused, forecast or answered; as SVG."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

CELL_WIDTH, CELL_HEIGHT, LABEL_WIDTH = 22, 20, 190
COMPUTED, REUSED, FORECAST, ANSWERED = "computed", "reused", "forecast", "answered"
WORDS = {
    COMPUTED: "computed",
    REUSED: "reused as it was kept",
    FORECAST: "forecast from kept outputs",
    ANSWERED: "answered without the model",
}
MAX_ROWS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatRow:
    """One row.

    Attributes:
        name: A site, or all of them.
        cells: A state for each step.
    """

    name: str
    cells: tuple[str, ...]


def rows_of_passes(passes: Sequence[Mapping[str, Any]]) -> tuple[tuple[HeatRow, ...], tuple[str, ...]]:
    """The rows of a plan's passes as they stand in its file, and what cannot be drawn, in words.

    Guidance branches share both schedules and weights, so one row stands for all of them.
    """
    answered: tuple[bool, ...] = ()
    schedule: Mapping[str, Any] = {}
    said: list[str] = []
    for config in passes:
        kind = config.get("type")
        computed = config.get("computed")
        if kind == "trajectory" and isinstance(computed, str):
            answered = tuple(bit == "0" for bit in computed)
        elif kind == "static_cache" and "recompute" in config.get("schedule", {}):
            schedule = config["schedule"]
        else:
            said.append(f"the pass '{kind}' decides by a rule or while it runs, so it has no map")
    rows = []
    steps = len(answered) or int(schedule.get("num_steps", 0))
    if answered or (steps and not schedule):
        cells = tuple(ANSWERED if each else COMPUTED for each in answered)
        rows.append(HeatRow(name="whole denoiser", cells=cells))
    for site, bits in schedule.get("recompute", {}).items():
        cells = tuple(COMPUTED if bit == "1" else REUSED for bit in bits)
        if answered and len(answered) == len(cells):
            cells = tuple(ANSWERED if skip else cell for cell, skip in zip(cells, answered, strict=True))
        rows.append(HeatRow(name=site, cells=cells))
    return tuple(rows), tuple(said)


def heatmap(rows: Sequence[HeatRow], said: Sequence[str] = ()) -> str:
    """An SVG with a legend, and a table of the same for who cannot see it; sentences where there are no rows."""
    words = "".join(f"<p>{escape(each)}</p>" for each in said)
    if not rows:
        return f'<div class="nothing">{words or "<p>Everything is computed at every step.</p>"}</div>'
    shown = rows[:MAX_ROWS]
    steps = len(shown[0].cells)
    width, top = LABEL_WIDTH + steps * CELL_WIDTH + 8, 24
    height = top + len(shown) * CELL_HEIGHT + 28
    parts = [
        f'<svg class="heat" viewBox="0 0 {width} {height}" style="min-width:{min(width, 420)}px" role="img" '
        f'aria-label="{escape(_in_words(rows))}">',
        '<text class="name" x="0" y="15">step</text>',
    ]
    for step in range(0, steps, 1 if steps <= 30 else 5):
        left = LABEL_WIDTH + (step + 0.5) * CELL_WIDTH
        parts.append(f'<text class="tick" x="{left}" y="15" text-anchor="middle">{step + 1}</text>')
    for number, row in enumerate(shown):
        y = top + number * CELL_HEIGHT
        parts.append(f'<text class="name" x="0" y="{y + 15}">{escape(row.name)}</text>')
        parts += [_cell(state, LABEL_WIDTH + step * CELL_WIDTH, y) for step, state in enumerate(row.cells)]
    left, y = 0, height - 18
    for state in WORDS:
        if any(state in row.cells for row in rows):
            parts.append(_cell(state, left, y))
            parts.append(f'<text class="tick" x="{left + CELL_WIDTH + 4}" y="{y + 14}">{WORDS[state]}</text>')
            left += CELL_WIDTH + 22 + 7 * len(WORDS[state])
    more = len(rows) - len(shown)
    tail = f"<p>and {more} more sites</p>" if more > 0 else ""
    return f'<div class="scroll">{"".join(parts)}</svg></div>{tail}{words}'


def _cell(state: str, left: float, top: float) -> str:
    box = f'x="{left + 1}" y="{top + 1}" width="{CELL_WIDTH - 2}" height="{CELL_HEIGHT - 2}"'
    mark = ""
    if state == FORECAST:  # not by colour alone
        ends = f'x1="{left + 4}" y1="{top + CELL_HEIGHT - 4}" x2="{left + CELL_WIDTH - 4}" y2="{top + 4}"'
        mark = f'<line class="stroke" {ends}/>'
    if state == REUSED:
        mark = f'<circle class="dot" cx="{left + CELL_WIDTH / 2}" cy="{top + CELL_HEIGHT / 2}" r="2.5"/>'
    return f'<rect class="cell {state}" {box}/>{mark}'


def _in_words(rows: Sequence[HeatRow]) -> str:
    cells = [cell for row in rows for cell in row.cells]
    counts = [f"{cells.count(state)} {words}" for state, words in WORDS.items() if state in cells]
    return f"{len(rows)} row(s) of {len(rows[0].cells)} steps: {', '.join(counts)}"
