"""A dial for a limit: a slider with a stop at every point of the front, on a logarithmic scale where need be.

gradio's slider is linear and knows no stops: of errors that span decades, all good plans would stand on its first
pixel. With the arrow keys one goes from stop to stop; anything can be typed. ``BEHAVIOUR`` reports the limit.
"""

from collections.abc import Sequence
from html import escape

from dit_accel.app.axes import Axis, short

POSITIONS = 1000

KEEP_FOCUS = """
let focused = null;
element.addEventListener('focusin', (event) => { focused = nameOf(event.target); });
element.addEventListener('focusout', (event) => { if (event.relatedTarget) focused = null; });
new MutationObserver(() => {
  const now = document.activeElement;
  if (focused === null || (now !== document.body && (!element.contains(now) || nameOf(now) === focused))) return;
  const again = [...element.querySelectorAll('[tabindex], input')].find((each) => nameOf(each) === focused);
  if (again) again.focus({preventScroll: true});
}).observe(element, {childList: true, subtree: true, attributes: true, attributeFilter: ['data-key', 'data-value']});
"""
"""What is drawn anew keeps the keyboard's focus; ``nameOf`` says which element is the same one.

gradio turns the old elements into the new ones, so that the focus may find itself on another one.
"""

BEHAVIOUR = (
    """
const nameOf = (node) => node.type === undefined ? null : node.type;
const dialOf = () => element.querySelector('.dial');
const valueAt = (dial, place) => {
  const low = +dial.dataset.low, high = +dial.dataset.high, share = place / 1000;
  if (place <= 0) return +dial.dataset.least;
  return dial.dataset.log === '1' ? low * Math.pow(high / low, share) : low + share * (high - low);
};
const report = (value) => { if (Number.isFinite(value)) trigger('input', {value: value}); };
element.addEventListener('input', (event) => {
  if (event.target.type !== 'range') return;
  const dial = dialOf();
  dial.querySelector('[type=number]').value = valueAt(dial, +event.target.value).toPrecision(3);
});
element.addEventListener('change', (event) => {
  const dial = dialOf();
  if (event.target.type === 'range') report(valueAt(dial, +event.target.value));
  if (event.target.type === 'number') report(parseFloat(event.target.value));
});
element.addEventListener('keydown', (event) => {
  const step = {ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1}[event.key];
  if (event.target.type !== 'range' || !step) return;
  event.preventDefault();
  const stops = JSON.parse(dialOf().dataset.stops), now = +dialOf().dataset.value;
  const next = step > 0 ? stops.find((stop) => stop > now) : stops.findLast((stop) => stop < now);
  if (next !== undefined) report(next);
});
new MutationObserver(() => {
  for (const input of element.querySelectorAll('input')) input.value = input.getAttribute('value');
}).observe(element, {childList: true, subtree: true, attributes: true, attributeFilter: ['data-value', 'value']});
"""
    + KEEP_FOCUS
)


def dial(
    label: str, stops: Sequence[float], value: float | None, *, shown: str, log: bool = False, floor: float = 0.0
) -> str:
    """The dial as HTML.

    Args:
        label: What the limit is of, with its unit.
        stops: Values of the points.
        value: Where it stands; ``None``: nowhere yet.
        shown: The value as it is written.
        log: Whether equal ratios are equally far apart.
        floor: Of a logarithmic dial: smaller values stand at its low end.
    """
    known = sorted(set(stops))
    if len(known) < 2:
        return f'<p class="dial none" title="nothing is measured yet">{escape(label)}: no limit to set yet</p>'
    low, high = (max(known[0], floor), known[-1]) if log else (known[0], known[-1])
    axis = Axis(low=low, high=max(high, low * 1.001), start=0, end=POSITIONS, log=log)
    stand = known[0] if value is None else value
    place = round(axis.at(stand))
    ticks = "".join(f'<i style="left:{axis.at(stop) / POSITIONS:.2%}"></i>' for stop in known)
    name = escape(label)
    return (
        f'<div class="dial" data-low="{axis.low!r}" data-high="{axis.high!r}" data-log="{int(log)}" '
        f'data-least="{known[0]!r}" data-stops="{escape(str(known))}" data-value="{stand!r}">'
        f'<div class="head"><span>{name}</span>'
        f'<input type="number" step="any" value="{escape(shown)}" aria-label="{name}, typed"></div>'
        f'<div class="track"><input type="range" min="0" max="{POSITIONS}" value="{place}" aria-label="{name}" '
        f'aria-valuetext="{escape(shown)}">{ticks}</div>'
        f'<div class="ends"><span>{short(known[0])}</span><span>{short(known[-1])}</span></div></div>'
    )
