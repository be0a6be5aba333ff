"""The plot of a front as SVG: time to the right, error upwards, every point with its intervals.

Text, not a picture: it is sharp at any size, follows light and dark, and each point can be reached with the keyboard.
Points are told apart by shape as well as by colour (Okabe and Ito's, which the colour-blind tell apart). ``BEHAVIOUR``
makes points clickable and the plane brushable; what it reports is a key, or a range in the units of the time axis.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from dit_accel.app.axes import Axis, short
from dit_accel.app.dial import KEEP_FOCUS

WIDTH, HEIGHT = 640, 392
LEFT, RIGHT, TOP, BOTTOM = 74, 20, 56, 50
SIZE = 7.0  # half a marker's width
LETTER = 7.6  # width of one, about
NAMED = ("ours", "plain")
MARKERS = {"plain": "star", "ours": "square", "fewer_steps": "circle", "rival": "triangle"}
KIND_WORDS = {"plain": "plain", "ours": "dit-accel", "fewer_steps": "plain with fewer steps", "rival": "rivals"}

BEHAVIOUR = (
    """
const nameOf = (node) => node.dataset.key === undefined ? null : node.dataset.key;
const svgOf = () => element.querySelector('svg.front');
const valueAt = (svg, x) => {
  const a = +svg.dataset.x0, b = +svg.dataset.x1, low = +svg.dataset.low, high = +svg.dataset.high;
  const share = Math.min(1, Math.max(0, (x - a) / (b - a)));
  return svg.dataset.log === '1' ? low * Math.pow(high / low, share) : low + share * (high - low);
};
const place = (svg, event) => {
  const box = svg.getBoundingClientRect();
  return (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
};
let from = null;
element.addEventListener('click', (event) => {
  const point = event.target.closest('.pt');
  if (point) trigger('select', {key: point.dataset.key});
});
element.addEventListener('keydown', (event) => {
  const point = event.target.closest('.pt');
  if (!point) return;
  if (event.key === 'Enter' || event.key === ' ') {
    event.preventDefault();
    trigger('select', {key: point.dataset.key});
  }
  const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
  if (step) {
    event.preventDefault();
    const all = [...element.querySelectorAll('.pt')].sort((p, q) => +p.dataset.x - +q.dataset.x);
    const next = all[all.indexOf(point) + step];
    if (next) next.focus();
  }
});
element.addEventListener('pointerdown', (event) => {
  const svg = svgOf();
  if (!svg || !svg.contains(event.target) || event.target.closest('.pt')) return;
  from = place(svg, event);
});
element.addEventListener('pointermove', (event) => {
  const svg = svgOf(), brush = svg && svg.querySelector('.brush');
  if (from === null || !brush) return;
  const to = place(svg, event);
  brush.setAttribute('x', Math.min(from, to));
  brush.setAttribute('width', Math.abs(to - from));
});
element.addEventListener('pointerup', (event) => {
  const svg = svgOf();
  if (from === null || !svg) return;
  const a = from, b = place(svg, event);
  from = null;
  svg.querySelector('.brush').setAttribute('width', 0);
  if (Math.abs(a - b) < 8) return;
  trigger('input', {low: valueAt(svg, Math.min(a, b)), high: valueAt(svg, Math.max(a, b))});
});
"""
    + KEEP_FOCUS
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A point to draw.

    Attributes:
        key: What choosing it reports.
        label: Written beside ours and what is chosen; said of all.
        kind: A key of ``MARKERS``.
        x: Time.
        y: Error; ``None``: equal to the plain run, drawn at the good edge.
        x_interval: 95 %.
        y_interval: 95 %.
        title: Said when it is pointed at.
        beaten: Drawn grey.
    """

    key: str
    label: str
    kind: str
    x: float
    y: float | None
    x_interval: tuple[float, float] | None = None
    y_interval: tuple[float, float] | None = None
    title: str = ""
    beaten: bool = False


def scatter(
    marks: Sequence[Mark],
    *,
    title: str,
    x_title: str,
    y_title: str,
    line: Sequence[str] = (),
    chosen: str | None = None,
    y_log: bool | None = None,
    y_floor: float | None = None,
    good_is_low: bool = True,
    legend: Mapping[str, str] = KIND_WORDS,
    x_whole: bool = False,
) -> str:
    """An SVG, or a sentence where there is nothing to draw.

    Args:
        marks: The points.
        title: Above; says which way is better.
        x_title: Below.
        y_title: At the side.
        line: Keys of the points that a line joins.
        chosen: Key of the point that is ringed.
        y_log: Whether errors are on a logarithmic axis; ``None``: where they are far apart.
        y_floor: Smaller errors stand at the edge.
        good_is_low: Whether the plain run stands below.
        legend: What kinds are called.
        x_whole: Whether there is nothing between whole numbers to the right.
    """
    measured = [mark.y for mark in marks if mark.y is not None]
    if not measured:
        return f'<p class="nothing">{escape(title)}: nothing is measured yet</p>'
    x = Axis.around([mark.x for mark in marks], LEFT, WIDTH - RIGHT)
    y = Axis.around(measured, HEIGHT - BOTTOM, TOP, log=y_log, floor=y_floor)
    edge = y.low if good_is_low else y.high
    spots = {mark.key: (x.at(mark.x), y.at(edge if mark.y is None else mark.y)) for mark in marks}
    parts = [
        f'<svg class="front" viewBox="0 0 {WIDTH} {HEIGHT}" role="group" aria-label="{escape(title)}" '
        f'data-x0="{x.start}" data-x1="{x.end}" data-low="{x.low!r}" data-high="{x.high!r}" data-log="{int(x.log)}">',
        f'<text class="title" x="{LEFT}" y="18">{escape(title)}</text>',
        *_frame(x, y, x_title, y_title, x_whole),
        f'<rect class="brush" x="0" width="0" y="{TOP}" height="{HEIGHT - BOTTOM - TOP}"/>',
        _line([spots[key] for key in line if key in spots]),
    ]
    # What is beaten first, so that it lies beneath.
    order = sorted(marks, key=lambda m: (m.key == chosen, m.kind == "ours", not m.beaten))
    names = {mark.key: mark.label for mark in reversed(order) if mark.key == chosen or mark.kind in NAMED}
    places = _label_places({key: (words, *spots[key]) for key, words in names.items()})
    for mark in order:
        label = _label(mark.label, places[mark.key]) if mark.key in names else ""
        parts.append(_mark(mark, spots[mark.key], x, y, chosen=mark.key == chosen, label=label))
    parts += [*_legend(marks, legend), "</svg>"]
    return "".join(parts)


def _frame(x: Axis, y: Axis, x_title: str, y_title: str, x_whole: bool) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [f'<rect class="plane" x="{LEFT}" y="{TOP}" width="{right - LEFT}" height="{bottom - TOP}"/>']
    for value in (tick for tick in x.ticks() if not x_whole or tick == int(tick)):
        parts.append(f'<line class="grid" x1="{x.at(value):.1f}" x2="{x.at(value):.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(
            f'<text class="tick" x="{x.at(value):.1f}" y="{bottom + 18}" text-anchor="middle">{short(value)}</text>'
        )
    for value in y.ticks():
        parts.append(f'<line class="grid" y1="{y.at(value):.1f}" y2="{y.at(value):.1f}" x1="{LEFT}" x2="{right}"/>')
        parts.append(
            f'<text class="tick" x="{LEFT - 8}" y="{y.at(value) + 5:.1f}" text-anchor="end">{short(value)}</text>'
        )
    parts.append(
        f'<text class="name" x="{(LEFT + right) / 2}" y="{HEIGHT - 11}" text-anchor="middle">{escape(x_title)}</text>'
    )
    middle = (TOP + bottom) / 2
    turned = f'transform="translate(18 {middle}) rotate(-90)" text-anchor="middle"'
    parts.append(f'<text class="name" {turned}>{escape(y_title)}</text>')
    return parts


def _line(spots: Sequence[tuple[float, float]]) -> str:
    if len(spots) < 2:
        return ""
    path = " ".join(f"{left:.1f},{top:.1f}" for left, top in sorted(spots))
    return f'<polyline class="line" points="{path}"/>'


def _mark(mark: Mark, spot: tuple[float, float], x: Axis, y: Axis, *, chosen: bool, label: str) -> str:
    left, top = spot
    classes = f"pt {mark.kind}" + (" beaten" if mark.beaten else "") + (" chosen" if chosen else "")
    parts = [
        f'<g class="{classes}" data-key="{escape(mark.key)}" data-x="{mark.x!r}" tabindex="0" role="button" '
        f'aria-pressed="{str(chosen).lower()}" aria-label="{escape(mark.title or mark.label)}">',
        f"<title>{escape(mark.title or mark.label)}</title>",
    ]
    if mark.x_interval:
        low, high = (x.at(end) for end in mark.x_interval)
        parts.append(f'<line class="bar" x1="{low:.1f}" x2="{high:.1f}" y1="{top:.1f}" y2="{top:.1f}"/>')
    if mark.y_interval:
        low, high = (y.at(end) for end in mark.y_interval)
        parts.append(f'<line class="bar" x1="{left:.1f}" x2="{left:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>')
    if chosen:
        parts.append(f'<circle class="ring" cx="{left:.1f}" cy="{top:.1f}" r="{SIZE * 1.9}"/>')
    parts.append(_shape(MARKERS[mark.kind], left, top))
    return "".join([*parts, label, "</g>"])


def _label_places(names: Mapping[str, tuple[str, float, float]]) -> dict[str, tuple[float, float, str]]:
    """Where each label stands so that none lies on another: right above, left above, right below, left below."""
    taken: list[tuple[float, float, float, float]] = []
    found = {}
    for key, (words, left, top) in names.items():
        width = LETTER * len(words)
        choices = [(left + dx, top + dy, anchor) for dy in (-10, 22) for dx, anchor in ((12, "start"), (-12, "end"))]
        boxes = [(a - width * (anchor == "end"), b - 12, width, 16) for a, b, anchor in choices]
        free = [number for number, box in enumerate(boxes) if not _hits(box, taken)]
        place = free[0] if free else 0
        taken.append(boxes[place])
        found[key] = choices[place]
    return found


def _hits(box: tuple[float, float, float, float], taken: Sequence[tuple[float, float, float, float]]) -> bool:
    left, top, width, height = box
    if left < LEFT or left + width > WIDTH or top < TOP - 2 or top + height > HEIGHT - BOTTOM:
        return True
    return any(left < x + w and x < left + width and top < y + h and y < top + height for x, y, w, h in taken)


def _label(words: str, place: tuple[float, float, str]) -> str:
    left, top, anchor = place
    return f'<text class="label" x="{left:.1f}" y="{top:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _shape(name: str, left: float, top: float) -> str:
    s = SIZE
    if name == "circle":
        return f'<circle class="m" cx="{left:.1f}" cy="{top:.1f}" r="{s * 0.8}"/>'
    if name == "square":
        return f'<rect class="m" x="{left - s:.1f}" y="{top - s:.1f}" width="{2 * s}" height="{2 * s}"/>'
    if name == "triangle":
        corners: tuple[tuple[float, float], ...] = ((0, -s), (s, s * 0.8), (-s, s * 0.8))
    else:
        corners = ((0, -s * 1.4), (s * 1.1, 0), (0, s * 1.4), (-s * 1.1, 0))
    path = " ".join(f"{left + dx:.1f},{top + dy:.1f}" for dx, dy in corners)
    return f'<polygon class="m" points="{path}"/>'


def _legend(marks: Sequence[Mark], legend: Mapping[str, str]) -> list[str]:
    """Between title and plane, in a row."""
    parts, left = ['<g class="legend" aria-hidden="true">'], LEFT + 8.0
    for kind, words in legend.items():
        if any(mark.kind == kind for mark in marks):
            parts.append(f'<g class="{kind}">{_shape(MARKERS[kind], left, TOP - 18)}</g>')
            parts.append(f'<text class="tick" x="{left + 13}" y="{TOP - 13}">{escape(words)}</text>')
            left += 40 + LETTER * len(words)
    return [*parts, "</g>"]
