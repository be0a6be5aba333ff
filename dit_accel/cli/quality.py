"""Evaluations for a terminal: what was evaluated in words, numbers as a table, how each was measured below it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dit_accel.evaluation.reports.records import Distance, Quality
from dit_accel.evaluation.reports.report import Report
from dit_accel.plan.facts import QUALITY, interval_words, metric_facts

if TYPE_CHECKING:
    from rich.table import Table

VIDEO = ("temporal_flickering", "frame_consistency", "motion_right")


def evaluation_words(report: Report) -> Iterator[str]:
    """What was evaluated, and what could not be used."""
    found = report.evaluation
    if found is None:
        return
    yield f"evaluation {found.suite}: prompts of {found.prompts}, {found.per_prompt} of each"
    if found.reference is not None:
        yield f"real images: {found.num_reference} of '{found.reference}'"
    for skipped in found.skipped:
        yield f"left out: {skipped.where}: {skipped.why}"
    if found.num_skipped > len(found.skipped):
        yield f"left out: {found.num_skipped - len(found.skipped)} more"
    if found.redrawn:
        yield f"found damaged and drawn anew: {', '.join(found.redrawn)}"


def quality_table(report: Report) -> "Table | None":
    """A row for each variant, and below it one for each category; ``None`` where no quality was measured."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    rows = []
    for variant in report.variants:
        if variant.quality is not None:
            rows.append((variant.name, _cells(variant.quality)))
            rows += [(f"  {name}", _cells(own)) for name, own in variant.quality.categories.items()]
    columns = list(dict.fromkeys(column for _, cells in rows for column in cells))
    if not columns:
        return None
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    for name, cells in rows:
        table.add_row(name, *(cells.get(column, "") for column in columns))
    return table


def method_words(report: Report) -> Iterator[str]:
    """How each number of the table was measured, a line each."""
    seen: dict[str, str] = {}
    for quality in (variant.quality for variant in report.variants if variant.quality is not None):
        for each in quality.distances:
            how = f"{each.network}; crop: {each.crop}; resize: {each.resize}; "
            how += f"{each.n_generated} images to {each.reference}"
            if each.spread is not None:
                how += f"; in brackets the spread of {each.blocks} blocks of {each.block_size}"
            seen.setdefault(_name(each), how)
        for judge in quality.alignment:
            seen.setdefault(judge.name, f"{judge.unit}, n = {judge.scores.n}, 95 % interval; {judge.model}")
        if quality.video is not None and quality.video.consistency_network is not None:
            seen.setdefault(
                QUALITY["frame_consistency"].label, f"on {quality.video.consistency_network} (VBench: DINO)"
            )
    return (f"{name}: {how}" for name, how in seen.items())


def _cells(quality: Quality) -> dict[str, str]:
    cells = {_name(each): _value(each) for each in quality.distances}
    for judge in quality.alignment:
        cells[judge.name] = interval_words(QUALITY["alignment"], judge.scores.mean, judge.scores.ci95)
    for name in VIDEO:
        metric = getattr(quality.video, name, None)
        if metric is not None:
            facts = metric_facts(name)
            cells[facts.label] = interval_words(facts, metric.mean, metric.ci95)
    return cells


def _name(distance: Distance) -> str:
    return distance.name if distance.spread is None else f"{distance.name} x 1000"


def _value(distance: Distance) -> str:
    """Of a kernel distance times 1000, as papers give it."""
    if distance.spread is None:
        return f"{distance.value:.2f}"
    return f"{distance.value * 1e3:.3f} ({distance.spread * 1e3:.3f})"
