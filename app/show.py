"""A front and its points as people see them: marks of the plot, rows of the table, sentences, code to take home."""

import math
from collections.abc import Callable
from html import escape
from typing import Any

from dit_accel.app.points import CERTIFIED, Front, FrontPoint, Shown, unbeaten
from dit_accel.app.scatter import KIND_WORDS, Mark, scatter
from dit_accel.embedded import list_embedded
from dit_accel.plan.facts import SPEEDUP, interval_words, metric_facts

COLUMNS = ("", "point", "whose", "time", "speed-up [95 %]", "error [95 %]", "worst 5 %", "n", "certificate")
LABEL_COLUMN = 1
FLOORS = {"st_lpips": 1e-5, "lpips": 1e-5}
DEMO_PROMPT, DEMO_SEED = "a red apple", 0


def metric_title(metric: str) -> str:
    """The metric's name and which way is better."""
    facts = metric_facts(metric)
    better = "higher is better" if facts.higher_is_better else "lower is better"
    return f"{facts.label}{',' + facts.unit if facts.unit else ''} ({better})"


def plot(front: Front, metric: str, *, rivals: bool, chosen: str | None) -> str:
    """The front as SVG."""
    shown = front.visible(rivals=rivals)
    best = unbeaten(shown, metric)
    marks = [_mark(front, point, metric, point in best) for point in shown if point.has(metric) and front.plain_s]
    ours = [point.key for point in best if point.kind in ("ours", "plain")]
    return scatter(
        marks,
        title=f"{front.model}: time against {metric_title(metric)}",
        x_title=f"seconds {'a video' if front.video else 'an image'} on {front.machine}",
        y_title=metric_title(metric),
        line=ours,
        chosen=chosen,
        y_log=metric in FLOORS,
        y_floor=FLOORS.get(metric),
        good_is_low=not metric_facts(metric).higher_is_better,
    )


def _mark(front: Front, point: FrontPoint, metric: str, best: bool) -> Mark:
    seconds = front.time_s(point)
    assert seconds is not None
    measured = point.errors.get(metric)
    return Mark(
        key=point.key,
        label=point.label,
        kind=point.kind,
        x=seconds,
        y=None if measured is None else measured.mean,
        x_interval=front.time_interval_s(point),
        y_interval=None if measured is None else measured.ci95,
        title=", ".join(part for part in (point.label, *_cells(front, point, metric)[2:7]) if part),
        beaten=not best,
    )


def table(front: Front, metric: str, *, rivals: bool, chosen: str | None) -> list[list[str]]:
    """A row for each visible point, under ``COLUMNS``; what is chosen has a mark in the first one."""
    shown = front.visible(rivals=rivals)
    return [["●" if p.key == chosen else "", p.label, *_cells(front, p, metric)[2:]] for p in shown]


def _cells(front: Front, point: FrontPoint, metric: str) -> list[str]:
    facts, measured, seconds = metric_facts(metric), point.errors.get(metric), front.time_s(point)
    whose = KIND_WORDS[point.kind] + (", as advised" if point.advised else "")
    speed = "" if point.ratio is None else interval_words(SPEEDUP, point.ratio, point.ratio_ci95)
    if point.kind == "plain":
        return ["", point.label, whose, _seconds(seconds), "1", "0: the reference", "", "", ""]
    if measured is None:
        unknown = "not measured"
        return ["", point.label, whose, _seconds(seconds) or unknown, speed, unknown, "", "", point.state]
    low, high = (_number(metric, end) for end in measured.ci95)
    error = f"{_number(metric, measured.mean)}{facts.unit} [{low}, {high}]"
    worst = f"{_number(metric, measured.worst5)}{facts.unit}"
    return ["", point.label, whose, _seconds(seconds), speed, error, worst, str(point.n), point.state]


def _number(metric: str, value: float) -> str:
    """Distances span decades, so they get two figures; the others their decimals."""
    if metric not in FLOORS:
        return f"{value:.{metric_facts(metric).digits}f}"
    return f"{value:.2g}" if value >= FLOORS[metric] else "0"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} s" if value >= 0.1 else f"{1000 * value:.0f} ms"


def verdict(front: Front, point: FrontPoint, metric: str) -> str:
    """What is chosen, in HTML: a heading with numbers, whether it is certified, and the certificate in words."""
    badge = ""
    if point.state:
        good = point.state == CERTIFIED
        badge = (
            f'<span class="badge {"good" if good else "doubt"}">{"✓" if good else "!"} {escape(point.state)}</span>'
        )
    numbers = ", ".join(dict.fromkeys(part for part in _cells(front, point, metric)[3:6] if part))
    words = "".join(f"<li>{escape(each)}</li>" for each in point.words)
    if point.kind == "plain":
        words = "<li>the unaccelerated pipeline: what everything else is compared with</li>"
    if point.kind == "fewer_steps":
        words = (
            f"<li>the unaccelerated pipeline with {point.num_steps} of {front.num_steps} steps: "
            f"the rival that costs nobody anything; measured on {point.n} prompts</li>"
        )
    return (
        f'<div class="verdict"><h3>{escape(point.label)} {badge}</h3><p class="numbers">{escape(numbers)}</p>'
        f"<ul>{words}</ul></div>"
    )


def code(front: Front, point: FrontPoint) -> str:
    """The lines that do this point, whole: they run as pasted."""
    if not point.can_run:
        return f"# {point.label} is a technique of others; docs/rivals.md says whose code ran, and how it was set."
    embedded = front.model in list_embedded()
    load = f'load_embedded("{front.model}")' if embedded else f"load_pipeline({front.model!r})"
    names = ["load_embedded"] if embedded else []
    lines = [] if embedded else ["from dit_accel.pipelines.loading import load_pipeline"]
    accelerated = point.kind == "ours"
    names = ["accelerate_pipeline", *names] if accelerated else names
    lines = ["import torch", *([f"from dit_accel import {', '.join(names)}"] if names else []), *lines]
    if accelerated:
        plan = repr(point.preset or str(point.folder)).replace("'", '"')
        lines += ["", f"pipe = accelerate_pipeline({load}, {plan})"]
    else:
        lines += ["", f"pipe = {load}"]
    shown = point.shown[-1] if point.shown else None
    prompt, seed = (shown.prompt, shown.seed) if shown else (DEMO_PROMPT, DEMO_SEED)
    made = "video" if front.video else "image"
    call = f"pipe({prompt!r}, num_inference_steps={point.num_steps}, generator=torch.Generator().manual_seed({seed})"
    if front.video:
        lines.insert(1, "from diffusers.utils import export_to_gif")
        lines += [f'{made} = {call}, output_type="pil").frames[0]', f'export_to_gif({made}, "{made}.gif")']
    else:
        lines += [f"{made} = {call}).images[0]", f'{made}.save("{made}.png")']
    return "\n".join(lines)


def thumbnails(front: Front) -> tuple[FrontPoint, ...]:
    """Points that get a thumbnail: plain, ours, and for each of ours plain with as many steps as take its time."""
    ours = [point for point in front.points if point.kind == "ours"]
    fewer = [point for point in front.points if point.kind == "fewer_steps" and point.ratio is not None]
    near = {}
    for point in ours:
        if point.ratio is not None and fewer:
            rival = min(fewer, key=lambda each: abs((each.ratio or 0) - (point.ratio or 0)))
            near[rival.key] = rival
    return (*front.points[:1], *ours, *near.values())


def prompt_words(shown: Shown) -> str:
    """A prompt in a list: what it is, and how it went."""
    went = "" if shown.psnr_db is None else f", PSNR {metric_facts('psnr_db').number(shown.psnr_db)}"
    return f"{shown.prompt} ({shown.place}{went})"


def slider(low: float, high: float, value: float, *, fine: bool = False) -> dict[str, Any]:
    """A slider from ``low`` to ``high`` with ends that can be read; no smaller than the values it must reach.

    Args:
        low: Least value.
        high: Greatest value.
        value: Where it stands.
        fine: For values that span decades.
    """
    if not high > low:
        return {"minimum": 0, "maximum": 1, "step": 1, "value": 0, "interactive": False}
    step = 10.0 ** (math.floor(math.log10(high - low)) - (4 if fine else 2))
    digits = max(0, -math.floor(math.log10(step)))

    def tidy(number: float, round_to: Callable[[float], int]) -> float:
        return round(round_to(number / step) * step, digits)

    ends = {"minimum": tidy(low, math.floor), "maximum": tidy(high, math.ceil)}
    return {**ends, "step": round(step, digits), "value": tidy(value, round), "interactive": True}
