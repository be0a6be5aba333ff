"""A front and its points as people see them: marks of the plot, rows of the table, sentences, code to take home."""

import json
from collections.abc import Sequence
from html import escape

from dit_accel.app.dial import dial
from dit_accel.app.looks import tiles_of
from dit_accel.app.points import CERTIFIED, FLOORS, Front, FrontPoint, Shown, unbeaten
from dit_accel.app.scatter import KIND_WORDS, Mark, scatter
from dit_accel.embedded import list_embedded
from dit_accel.plan.facts import SPEEDUP, interval_words, metric_facts

COLUMNS = ("", "point", "whose", "time", "speed-up [95 %]", "error [95 %]", "worst 5 %", "n", "certificate")
LABEL_COLUMN = 1
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
    low, high = (number(metric, end) for end in measured.ci95)
    error = f"{number(metric, measured.mean)}{facts.unit} [{low}, {high}]"
    worst = f"{number(metric, measured.worst5)}{facts.unit}"
    return ["", point.label, whose, _seconds(seconds), speed, error, worst, str(point.n), point.state]


def number(metric: str, value: float) -> str:
    """Distances span decades, so they get two figures; the others their decimals."""
    if metric not in FLOORS:
        return f"{value:.{metric_facts(metric).digits}f}"
    return f"{value:.2g}" if value >= FLOORS[metric] else "0"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} s" if value >= 0.1 else f"{1000 * value:.0f} ms"


def verdict(front: Front, point: FrontPoint, metric: str) -> str:
    """What is chosen, in HTML: a heading, three numbers, and the certificate in words or why there is none."""
    badge = ""
    if point.state:
        good = point.state == CERTIFIED
        badge = (
            f'<span class="badge {"good" if good else "doubt"}">{"✓" if good else "!"} {escape(point.state)}</span>'
        )
    words: Sequence[str] = point.words
    if point.kind == "plain":
        words = ("the unaccelerated pipeline: what everything else is compared with",)
    if point.kind == "fewer_steps":
        words = (
            f"the unaccelerated pipeline with {point.num_steps} of {front.num_steps} steps: the rival that costs "
            f"nobody anything; measured on {point.n} prompts",
        )
    said = "".join(f"<li>{escape(each)}</li>" for each in words)
    tiles = tiles_of(_tiles(front, point, metric))
    return f'<div class="verdict"><h3>{escape(point.label)} {badge}</h3>{tiles}<ul>{said}</ul></div>'


def _tiles(front: Front, point: FrontPoint, metric: str) -> list[tuple[str, str]]:
    """Time, speed-up and error, each with what it is."""
    seconds, facts, measured = front.time_s(point), metric_facts(metric), point.errors.get(metric)
    if point.kind == "plain":
        return [(_seconds(seconds), f"{'a video' if front.video else 'an image'}")] if seconds else []
    if point.ratio is None or measured is None:
        return [("not measured", "speed and quality on this model")]
    speed, _, span = interval_words(SPEEDUP, point.ratio, point.ratio_ci95).partition(" ")
    low, high = (number(metric, end) for end in measured.ci95)
    better = "higher is better" if facts.higher_is_better else "lower is better"
    return [
        (_seconds(seconds), f"{'a video' if front.video else 'an image'}, plain {_seconds(front.plain_s)}"),
        (speed.replace("x", "×"), f"as fast, whole runs {span}"),
        (f"{number(metric, measured.mean)}{facts.unit}", f"{facts.label} [{low}, {high}], {better}"),
    ]


def code(front: Front, point: FrontPoint) -> str:
    """The lines that do this point, whole: they run as pasted, from any folder."""
    if not point.can_run:
        return f"# {point.label} is a technique of others; docs/rivals.md says whose code ran, and how it was set."
    embedded = front.model in list_embedded()
    names = ["accelerate_pipeline"] if point.kind == "ours" else []
    if embedded:
        names.append("load_embedded")
        load = f"load_embedded({_text(front.model)})"
    else:
        load = f'load_pipeline({_text(front.model)}, device=pick_device("auto"))'
    lines = ["import torch", *(["from diffusers.utils import export_to_gif"] if front.video else [])]
    lines += [f"from dit_accel import {', '.join(names)}"] if names else []
    lines += [] if embedded else ["from dit_accel.pipelines.loading import load_pipeline, pick_device"]
    lines += ["", f"pipe = accelerate_pipeline({load}, {_plan(point)})" if point.kind == "ours" else f"pipe = {load}"]
    shown = point.shown[-1] if point.shown else None
    prompt, seed = (shown.prompt, shown.seed) if shown else (DEMO_PROMPT, DEMO_SEED)
    asked = {"num_inference_steps": point.num_steps, **front.asked} if point.num_steps else dict(front.asked)
    settings = "".join(f", {name}={value!r}" for name, value in asked.items())
    call = f"pipe({_text(prompt)}{settings}, generator=torch.manual_seed({seed})"
    if front.video:
        lines += [f'video = {call}, output_type="pil").frames[0]', 'export_to_gif(video, "video.gif")']
    else:
        lines += [f"image = {call}).images[0]", 'image.save("image.png")']
    return "\n".join(lines)


def _plan(point: FrontPoint) -> str:
    """What ``accelerate_pipeline`` is given: a preset's name, a place on the hub, or a folder from the root down."""
    if point.preset is not None or point.hub:
        return _text(point.preset or point.hub)
    assert point.folder is not None
    return _text(str(point.folder.resolve()))


def _text(words: str) -> str:
    """A Python string in double quotes."""
    return json.dumps(words, ensure_ascii=False)


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


def time_dial(front: Front, points: Sequence[FrontPoint], chosen: FrontPoint) -> str:
    """The dial that asks for a time; its stops are these points."""
    times = [seconds for point in points if (seconds := front.time_s(point)) is not None]
    value = front.time_s(chosen)
    shown = "" if value is None else f"{value:.3g}"
    return dial(f"Time of {'a video' if front.video else 'an image'} at most, s", times, value, shown=shown)


def quality_dial(points: Sequence[FrontPoint], chosen: FrontPoint, metric: str) -> str:
    """The dial that asks for a quality; the plain run stands at its good end."""
    facts = metric_facts(metric)
    values = [point.errors[metric].mean for point in points if metric in point.errors]
    best = max(values, default=None) if facts.higher_is_better else min(values, default=None)
    value = chosen.errors[metric].mean if metric in chosen.errors else best if chosen.kind == "plain" else None
    bound = "at least" if facts.higher_is_better else "at most"
    label = f"{facts.label} {bound}{',' + facts.unit if facts.unit else ''}"
    shown = "" if value is None else f"{value:.3g}" if metric in FLOORS else number(metric, value)
    log = metric in FLOORS
    return dial(label, values, value, shown=shown, log=log, floor=FLOORS.get(metric, 0.0))
