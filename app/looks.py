"""How the explorer looks: style for light and dark, for a desk and for a phone."""

from collections.abc import Iterable
from html import escape

CSS = """
:root { --ours: #b84a00; --fewer: #222; --rival: #0072b2; --plain: #008060; --beaten: #9a9a9a; --ink: #1f2328;
        --faint: #d9dde2; --paper: #ffffff; --good: #007a53; --doubt: #9a5b00; }
.dark { --ours: #ff9a55; --fewer: #f2f2f2; --rival: #6bb8ea; --plain: #4fd1a5; --beaten: #7d8590; --ink: #e8eaed;
        --faint: #3a424d; --paper: #14181f; --good: #4fd1a5; --doubt: #f0b35a; }
.front, .heat { width: 100%; height: auto; display: block; touch-action: pan-y; user-select: none; }
.front .plane { fill: var(--paper); stroke: var(--faint); cursor: crosshair; }
.front .grid { stroke: var(--faint); stroke-width: 1; pointer-events: none; }
.front text, .heat text { fill: var(--ink); font: 14px system-ui, sans-serif; }
.front .title { font-weight: 600; font-size: 15px; }
.front .tick, .heat .tick { font-size: 12.5px; }
.front .brush { fill: var(--ours); opacity: .18; pointer-events: none; }
.front .line { fill: none; stroke: var(--ours); stroke-width: 2; pointer-events: none; }
.front .pt { cursor: pointer; }
.front .pt:focus { outline: none; }
.front .pt:focus-visible .m { stroke: var(--ink); stroke-width: 3; }
.front .bar { stroke-width: 1.4; stroke: var(--c); opacity: .55; }
.front .rival.beaten .bar { display: none; }
.front .rival.beaten:hover .bar, .front .rival.beaten:focus .bar, .front .rival.chosen .bar { display: inline; }
.front .m { fill: var(--c); stroke: var(--paper); stroke-width: 1; }
.front .ring { fill: none; stroke: var(--ink); stroke-width: 2; }
.front .label { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; stroke-linejoin: round; }
.front .chosen .label { font-weight: 700; }
.front .ours { --c: var(--ours); } .front .fewer_steps { --c: var(--fewer); }
.front .rival { --c: var(--rival); } .front .plain { --c: var(--plain); }
.front .beaten { --c: var(--beaten); }
.cells .cell { stroke: var(--faint); fill: none; } .cells .computed { fill: #0072b2; }
.cells .reused { fill: #f0e0b0; } .cells .forecast { fill: #e69f00; } .cells .part { fill: #0072b2; }
.cells .dot { fill: #333; } .cells .stroke { stroke: #333; stroke-width: 2; }
.key { display: flex; flex-wrap: wrap; gap: .2em 1.2em; font-size: .85em; margin: .3em 0 .5em; }
.key span { display: inline-flex; align-items: center; gap: .4em; }
.scroll { overflow-x: auto; }
.verdict h3 { margin: 0 0 .4em; font-size: 1.25em; }
.verdict ul { margin: .5em 0 0 1.1em; font-size: .88em; } .verdict li { margin: .15em 0; }
.tiles { display: flex; flex-wrap: wrap; gap: .5em; }
.tile { flex: 1 1 8.5em; border: 1px solid var(--faint); border-radius: 8px; padding: .45em .7em; }
.tile b { display: block; font-size: 1.35em; line-height: 1.25; } .tile span { font-size: .8em; opacity: .8; }
.badge { font-size: .62em; padding: .2em .7em; border-radius: 1em; border: 1.5px solid; vertical-align: middle; }
.badge.good { color: var(--good); } .badge.doubt { color: var(--doubt); }
.note { border-left: 4px solid var(--rival); padding: .4em .8em; background: var(--block-background-fill); }
.note.bad { border-color: #d1242f; } .note.wait { border-color: var(--doubt); }
#lost { position: fixed; bottom: 0; left: 0; right: 0; z-index: 1000; padding: .9em 1.2em; background: #8f1d1d;
        color: #fff; font-weight: 600; text-align: center; }
.nothing { padding: 1.2em; opacity: .8; }
.pixels img { image-rendering: pixelated; }
.dial .head { display: flex; justify-content: space-between; align-items: center; gap: .6em; font-size: .92em; }
.dial [type=number] { width: 7.4em; padding: .2em .5em; border: 1px solid var(--faint); border-radius: 6px;
        background: var(--paper); color: var(--ink); text-align: right; appearance: textfield; }
.dial .track { position: relative; padding-top: 6px; margin: .35em 0 0; }
.dial [type=range] { width: 100%; margin: 0; accent-color: var(--ours); display: block; cursor: pointer; }
.dial .track i { position: absolute; top: 0; width: 2px; height: 6px; margin-left: -1px;
        background: var(--ink); opacity: .45; }
.dial .ends { display: flex; justify-content: space-between; font-size: .78em; opacity: .75; }
.dial.none { opacity: .75; font-size: .9em; }
#header { display: flex; flex-wrap: wrap; align-items: baseline; gap: .2em 1em; }
#header h1, #header p { margin: 0; }
#thumbs-title h3, #heat-title h3, #table-title h3 { margin: .8em 0 -.4em; font-size: 1.02em; }
#thumbs .grid-wrap { min-height: 0 !important; }
#drawing:not(:has(.note)), #grid-words:not(:has(.note)), #notes:not(:has(.note)), #explore-message:not(:has(.note)),
#c-message:not(:has(.note)), #o-message:not(:has(.note)), #g-status:not(:has(.note, .tiles)) { display: none; }
#hint p { margin: 0; font-size: .92em; opacity: .85; }
.progress { height: 10px; border: 1px solid var(--faint); border-radius: 5px; overflow: hidden; margin: .4em 0; }
.progress i { display: block; height: 100%; background: var(--rival); }
footer { display: none !important; }
@media (max-width: 640px) {
  .front text { font-size: 20px; } .front .title { font-size: 17px; } .front .tick { font-size: 17px; }
  .front .name { font-size: 16px; }
  .front .label { display: none; } .front .chosen .label { display: inline; }
  .front .legend { display: none; }
  #limits { flex-direction: column; }
  #thumbs .grid-container { grid-template-columns: repeat(4, 1fr) !important; }
}
"""

NOTE_KINDS = ("", "bad", "wait")


def note(words: str, kind: str = "") -> str:
    """A sentence in a box: something to know, a mistake (``bad``), or something that takes a while (``wait``)."""
    assert kind in NOTE_KINDS
    role = "alert" if kind == "bad" else "status"
    return f'<div class="note {kind}" role="{role}">{escape(words)}</div>' if words else ""


def progress_bar(words: str, share: float) -> str:
    """A sentence and a bar, for eyes and for screen readers."""
    percent = round(100 * min(1.0, max(0.0, share)))
    return (
        f'<div class="note wait" role="status">{escape(words)}<div class="progress" role="progressbar" '
        f'aria-valuenow="{percent}" aria-valuemin="0" aria-valuemax="100"><i style="width:{percent}%"></i></div></div>'
    )


def tiles_of(tiles: Iterable[tuple[str, str]]) -> str:
    """Numbers in boxes, each with what it is."""
    boxes = (f'<div class="tile"><b>{escape(value)}</b><span>{escape(what)}</span></div>' for value, what in tiles)
    return f'<div class="tiles">{"".join(boxes)}</div>'
