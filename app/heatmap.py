"""A plan as a heat map: for every step and site whether it is computed, reused, forecast or answered; as SVG."""

from collections.abc import Sequence
from html import escape

from dit_accel.app.heat_rows import ANSWERED, COMPUTED, FORECAST, REUSED, SPARSE, HeatRow

CELL_WIDTH, CELL_HEIGHT = 22, 20
LETTER, LEAST_LABEL, MOST_LABEL = 8.0, 110, 310
SHRUNK = 0.62  # a map may be drawn this much smaller before it scrolls
WORDS = {
    COMPUTED: "computed",
    SPARSE: "a share of attention computed",
    REUSED: "reused as it was kept",
    FORECAST: "forecast from kept outputs",
    ANSWERED: "answered without the model",
}
MAX_ROWS = 60


def heatmap(rows: Sequence[HeatRow], said: Sequence[str] = ()) -> str:
    """An SVG with a legend, and a table of the same for who cannot see it; sentences where there are no rows."""
    words = "".join(f"<p>{escape(each)}</p>" for each in said)
    if not rows:
        return f'<div class="nothing">{words or "<p>Everything is computed at every step.</p>"}</div>'
    shown = rows[:MAX_ROWS]
    steps = max(len(row.cells) for row in shown)
    longest = max(len(row.name) for row in shown)
    label = min(MOST_LABEL, max(LEAST_LABEL, LETTER * longest + 12))
    width, top = label + steps * CELL_WIDTH + 8, 24
    height = top + len(shown) * CELL_HEIGHT + 4
    parts = [
        f'<svg class="heat cells" viewBox="0 0 {width:.0f} {height}" style="min-width:{SHRUNK * width:.0f}px;'
        f'max-width:{1.35 * width:.0f}px" role="img" aria-label="{escape(_in_words(rows))}">',
        '<text class="name" x="0" y="15">step</text>',
    ]
    for step in range(0, steps, 1 if steps <= 30 else 5):
        left = label + (step + 0.5) * CELL_WIDTH
        parts.append(f'<text class="tick" x="{left:.1f}" y="15" text-anchor="middle">{step + 1}</text>')
    for number, row in enumerate(shown):
        y = top + number * CELL_HEIGHT
        parts.append(f'<text class="name" x="0" y="{y + 15}">{escape(_fitting(row.name, label))}</text>')
        shares = row.shares or (1.0,) * len(row.cells)
        for step, (state, share) in enumerate(zip(row.cells, shares, strict=True)):
            title = f"{row.name}, step {step + 1}: {WORDS[state]}" + (f", {share:.0%}" if state == SPARSE else "")
            parts.append(_cell(state, label + step * CELL_WIDTH, y, share, title))
    more = len(rows) - len(shown)
    tail = f"<p>and {more} more rows</p>" if more > 0 else ""
    return f'<div class="scroll" tabindex="0">{"".join(parts)}</svg></div>{_legend(rows)}{tail}{words}'


def _legend(rows: Sequence[HeatRow]) -> str:
    size = f'width="{CELL_WIDTH}" height="{CELL_HEIGHT}" viewBox="0 0 {CELL_WIDTH} {CELL_HEIGHT}"'
    parts = [
        f'<span><svg class="cells" {size} aria-hidden="true">{_cell(state, 0, 0, 0.5)}</svg>{WORDS[state]}</span>'
        for state in WORDS
        if any(state in row.cells for row in rows)
    ]
    return f'<div class="key">{"".join(parts)}</div>'


def _fitting(name: str, width: float) -> str:
    most = int(width / LETTER)
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[len(name) - most // 2 + 1 :]}"


def _cell(state: str, left: float, top: float, share: float = 1.0, title: str = "") -> str:
    box = f'x="{left + 1:.1f}" y="{top + 1}" width="{CELL_WIDTH - 2}" height="{CELL_HEIGHT - 2}"'
    mark = ""
    if state == FORECAST:  # not by colour alone
        ends = f'x1="{left + 4:.1f}" y1="{top + CELL_HEIGHT - 4}" x2="{left + CELL_WIDTH - 4:.1f}" y2="{top + 4}"'
        mark = f'<line class="stroke" {ends}/>'
    if state == REUSED:
        mark = f'<circle class="dot" cx="{left + CELL_WIDTH / 2:.1f}" cy="{top + CELL_HEIGHT / 2}" r="2.5"/>'
    if state == SPARSE:  # filled as high as the share
        high = (CELL_HEIGHT - 2) * share
        under = f'y="{top + CELL_HEIGHT - 1 - high:.1f}" width="{CELL_WIDTH - 2}" height="{high:.1f}"'
        mark = f'<rect class="part" x="{left + 1:.1f}" {under}/>'
    said = f"<title>{escape(title)}</title>" if title else ""
    return f'<g>{said}<rect class="cell {state}" {box}/>{mark}</g>'


def _in_words(rows: Sequence[HeatRow]) -> str:
    cells = [cell for row in rows for cell in row.cells]
    counts = [f"{cells.count(state)} {words}" for state, words in WORDS.items() if state in cells]
    return f"{len(rows)} row(s) of {len(rows[0].cells)} steps: {', '.join(counts)}"
