"""Sets reports side by side: first what differs in how they were made, then numbers, then who is better where one is.

A verdict needs two things. The numbers must be comparable: fidelity on the same prompts, seeds, model and settings,
speed on the same machine too. And the 95 % intervals must not overlap, which is a stricter test than a paired one on
the same prompts would be: it finds no difference where a small one is, rather than one where none is.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from dit_accel.evaluation.reports.metrics import fidelity_metrics, quality_metrics
from dit_accel.evaluation.reports.records import Quality, Record
from dit_accel.evaluation.reports.report import Report, Variant
from dit_accel.evaluation.reports.times import Speedup
from dit_accel.plan.facts import (
    DENOISER_SPEEDUP,
    FIDELITY,
    QUALITY,
    SPEEDUP,
    VIDEO_FIDELITY,
    MetricFacts,
    metric_facts,
)

# What the pictures depend on, and what speed depends on besides.
PICTURES = (
    "model",
    "pipeline_class",
    "denoiser_class",
    "scheduler",
    "num_inference_steps",
    "guidance_scale",
    "height",
    "width",
    "num_frames",
    "dtype",
)
SPEED = ("device", "batch_size", "num_timed")
MACHINE = ("cpu", "cpu_cores", "torch_threads", "gpu", "cuda", "platform")


class Difference(Record):
    """Something in which the reports were not made alike.

    Attributes:
        what: In words, e.g. ``settings: num_inference_steps``.
        values: One a report, as text.
        forbids_fidelity: Whether fidelity cannot be compared across it.
        forbids_speed: Whether speed cannot.
        forbids_quality: Whether quality without regard to the plain run cannot.
    """

    what: str
    values: tuple[str, ...]
    forbids_fidelity: bool = False
    forbids_speed: bool = False
    forbids_quality: bool = False


class Cell(Record):
    """One number of one report; ``interval`` is ``None`` in reports that have none."""

    value: float
    interval: tuple[float, float] | None = None
    worst5: float | None = None


class DifferenceRow(Record):
    """One metric of one variant, over the reports.

    Attributes:
        variant: Its name, or ``plan`` where each report has one plan, of another name.
        metric: Its name.
        cells: One a report; ``None``: not measured there.
        verdict: In words.
    """

    variant: str
    metric: str
    cells: tuple[Cell | None, ...]
    verdict: str


class Differences(Record):
    """What :func:`compare_reports` returns.

    Attributes:
        names: Of the reports, as the caller calls them.
        differences: In how they were made.
        rows: Their numbers.
    """

    names: tuple[str, ...]
    differences: tuple[Difference, ...]
    rows: tuple[DifferenceRow, ...]


def facts_of(metric: str) -> MetricFacts:
    """How a row's numbers are written."""
    known = {"speedup": SPEEDUP, "denoiser_speedup": DENOISER_SPEEDUP, **FIDELITY, **VIDEO_FIDELITY, **QUALITY}
    if metric in known:
        return known[metric]
    kind, _, name = metric.partition(": ")
    return MetricFacts(label=name or metric, digits=3, higher_is_better=metric_facts(kind).higher_is_better)


def compare_reports(reports: Sequence[Report], names: Sequence[str]) -> Differences:
    """Compare reports, variants matched by name.

    Args:
        reports: At least two.
        names: What to call them.
    """
    differences = tuple(_differences(reports))
    rows = []
    for variant, found in _matched(reports):
        for metric in dict.fromkeys(key for one in found if one is not None for key in _cells(one)):
            cells = tuple(None if one is None else _cells(one).get(metric) for one in found)
            rows.append(
                DifferenceRow(
                    variant=variant,
                    metric=metric,
                    cells=cells,
                    verdict=_verdict(metric, cells, names, differences),
                )
            )
    return Differences(names=tuple(names), differences=differences, rows=tuple(rows))


def _differences(reports: Sequence[Report]) -> Iterator[Difference]:
    def differing(
        what: str, values: Sequence[Any], *, fidelity: bool = False, speed: bool = False, quality: bool = False
    ) -> Any:
        if any(value != values[0] for value in values):
            words = tuple("none" if value is None else str(value) for value in values)
            yield Difference(
                what=what,
                values=words,
                forbids_fidelity=fidelity,
                forbids_speed=speed,
                forbids_quality=quality,
            )

    prompts = [[sample.prompt for sample in report.samples] for report in reports]
    if any(one != prompts[0] for one in prompts):
        words = tuple(f"{report.made}, {report.settings.prompt_list or 'own'} list" for report in reports)
        yield Difference(what="prompts", values=words, forbids_fidelity=True, forbids_quality=True)
    else:
        seeds = [[sample.seed for sample in report.samples] for report in reports]
        if any(one != seeds[0] for one in seeds):
            firsts = tuple(f"from {one[0]}" if one else "none" for one in seeds)
            yield Difference(what="seeds", values=firsts, forbids_fidelity=True)
    for name in ("suite", "reference", "num_reference"):
        values = [getattr(report.evaluation, name, None) for report in reports]
        yield from differing(f"evaluation: {name}", values, quality=True)
    for what, values in _judges(reports):
        yield from differing(what, values, quality=True)
    for name in (*PICTURES, *SPEED, "repeats", "warmup"):
        values = [getattr(report.settings, name) for report in reports]
        yield from differing(
            f"settings: {name}", values, fidelity=name in PICTURES, speed=name in PICTURES or name in SPEED
        )
    known = [report.settings.conditions for report in reports]
    if all(known):
        doubts = [doubt for one in known[1:] for doubt in known[0].doubts(one)]  # type: ignore[union-attr, arg-type]
        if doubts:
            words = ("", *(["; ".join(dict.fromkeys(doubts))] * (len(reports) - 1)))
            yield Difference(what="run", values=words, forbids_fidelity=True, forbids_speed=True)
    for name in MACHINE:
        values = [getattr(report.environment, name) for report in reports]
        yield from differing(f"machine: {name}", values, speed=True)
    for name in ("dit_accel", "git_revision", "python"):
        yield from differing(f"software: {name}", [getattr(report.environment, name) for report in reports])
    for name in sorted({name for report in reports for name in report.environment.packages}):
        yield from differing(f"software: {name}", [report.environment.packages.get(name) for report in reports])


def _judges(reports: Sequence[Report]) -> Iterator[tuple[str, list[Any]]]:
    """With what quality was judged: values of other networks, sizes or judges do not compare."""
    found: list[dict[str, str]] = []
    for report in reports:
        own: dict[str, str] = {}
        for quality in (variant.quality for variant in report.variants if variant.quality is not None):
            for each in quality.distances:
                own[each.name] = f"{each.network} {each.weights_sha256[:12]}, crop {each.crop}, resize {each.resize}"
            own |= {each.name: each.model for each in quality.alignment}
        found.append(own)
    for name in sorted({name for own in found for name in own}):
        yield f"judge: {name}", [own.get(name) for own in found]


def _matched(reports: Sequence[Report]) -> Iterator[tuple[str, tuple[Variant | None, ...]]]:
    """Variants by name; the only plans of all reports belong together whatever they are called.

    A plain one takes part where its quality was measured: it is what everything else is measured against.
    """
    plans = [[variant for variant in report.variants if variant.kind == "plan"] for report in reports]
    single = all(len(some) == 1 for some in plans) and len({some[0].name for some in plans}) > 1
    labelled: list[dict[str, Variant]] = []
    for report in reports:
        own: dict[str, Variant] = {}
        for variant in report.variants:
            if variant.kind == "plan":
                own["plan" if single else variant.name] = variant
            elif variant.kind == "fewer_steps":
                own["fewer steps" if single else f"fewer steps, rival of {variant.rival_of}"] = variant
            elif variant.kind == "images" or variant.quality is not None:
                own[variant.name] = variant
        labelled.append(own)
    for label in dict.fromkeys(label for own in labelled for label in own):
        yield label, tuple(own.get(label) for own in labelled)


def _cells(variant: Variant) -> dict[str, Cell]:
    found: dict[str, Cell] = {}
    if variant.speedup is not None:
        found["speedup"] = _ratio(variant.speedup)
    if variant.denoiser is not None and variant.denoiser.speedup is not None:
        found["denoiser_speedup"] = _ratio(variant.denoiser.speedup)
    if variant.fidelity is not None:
        for name, metric in fidelity_metrics(variant.fidelity).items():
            found[name] = Cell(value=metric.mean, interval=metric.ci95, worst5=metric.worst5)
    if variant.quality is not None:
        found |= _quality_cells(variant.quality)
    return found


def _quality_cells(quality: Quality, prefix: str = "") -> dict[str, Cell]:
    found = {
        f"distance: {prefix}{each.name}": Cell(value=each.value) for each in quality.distances if each.spread is None
    }
    for name, metric in quality_metrics(quality).items():
        kind = "" if name in QUALITY and not prefix else f"{name if name in QUALITY else 'alignment'}: {prefix}"
        found[f"{kind}{name}"] = Cell(value=metric.mean, interval=metric.ci95, worst5=metric.worst5)
    for category, own in quality.categories.items():
        found |= _quality_cells(own, f"{category}, ")
    return found


def _ratio(speedup: Speedup) -> Cell:
    return Cell(value=speedup.ratio, interval=speedup.ci95)


def _verdict(
    metric: str, cells: Sequence[Cell | None], names: Sequence[str], differences: Sequence[Difference]
) -> str:
    if metric in ("speedup", "denoiser_speedup"):
        blocked = [each.what for each in differences if each.forbids_speed]
    elif metric in FIDELITY or metric in VIDEO_FIDELITY:
        blocked = [each.what for each in differences if each.forbids_fidelity]
    else:
        blocked = [each.what for each in differences if each.forbids_quality]
    if any(cell is None for cell in cells):
        return "not measured in every report"
    if blocked:
        return f"not comparable: differs in {', '.join(blocked)}"
    higher = facts_of(metric).higher_is_better
    present = [cell for cell in cells if cell is not None]
    if higher is None:
        return "neither way is better"
    if any(cell.interval is None for cell in present):
        return "no intervals to judge by"
    intervals = [cell.interval or (cell.value, cell.value) for cell in present]
    for number, (low, high) in enumerate(intervals):
        others = [other for place, other in enumerate(intervals) if place != number]
        if all(low > other[1] if higher else high < other[0] for other in others):
            return f"{names[number]} is better"
    return "no difference shown: intervals overlap"
