"""Draws reports side by side: speed-up against closeness to the plain run, a panel a model."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dit_accel.evaluation.reports.report import Report, Variant
from rivals.front import OURS, acted, contenders, front_of, metric, rival_of, shown_rivals, speed
from rivals.measure import FEWER

# Okabe and Ito's colours, then Tol's muted ones: told apart by the colour-blind, and each has a marker of its own.
STYLES = {
    FEWER: ("#000000", "o"),
    OURS: ("#D55E00", "s"),
    "TeaCache": ("#0072B2", "^"),
    "cache-dit": ("#E69F00", "D"),
    "FirstBlockCache": ("#009E73", "v"),
    "TaylorSeer": ("#CC79A7", "P"),
    "MagCache": ("#56B4E9", "X"),
    "DeepCache": ("#882255", "<"),
    "FORA": ("#999933", ">"),
    "SmoothCache": ("#332288", "h"),
}
SPARE = (("#117733", "p"), ("#AA4499", "*"), ("#661100", "d"), ("#DDCC77", "8"))
OTHERS = "#B0B0B0"
BEATEN = "#F0F0F0"
LABELS = {
    "psnr_db": "PSNR to the plain run, dB",
    "lpips": "LPIPS to the plain run",
    "st_lpips": "ST-LPIPS to the plain run",
}
# Worst and best that are drawn as they are; what lies beyond stands at the edge.
EDGES = {"psnr_db": (15.0, 60.0), "lpips": (1.0, 1e-4), "st_lpips": (1.0, 1e-4)}
SPEED_RANGE = (0.9, 5.1)
COLUMNS = 2
PANEL_INCHES = (5.2, 4.0)
DPI = 140
DIGEST = "Source"  # a keyword of PNG for where a picture comes from


def draw(reports: Sequence[Report], name: str, path: Path) -> Path:
    """Write a PNG with a panel for each report; it carries the digest of what it shows.

    Args:
        reports: Reports with fidelity.
        name: The metric.
        path: The file.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = -(-len(reports) // COLUMNS)
    size = (PANEL_INCHES[0] * min(COLUMNS, len(reports)), PANEL_INCHES[1] * rows)
    figure, axes = pyplot.subplots(
        rows, min(COLUMNS, len(reports)), figsize=size, sharex=True, sharey=True, squeeze=False
    )
    for axis, report in zip(axes.flat, reports, strict=False):
        _panel(axis, report, name)
    for axis in axes.flat[len(reports) :]:
        axis.set_axis_off()
    for axis in axes[:, 0]:
        axis.set_ylabel(LABELS[name])
    for axis in axes[-1]:
        axis.set_xlabel("speed-up of the whole call, by the clock")
    if name != "psnr_db":
        axes[0, 0].set_yscale("log")
        axes[0, 0].invert_yaxis()
    axes[0, 0].set_xlim(*SPEED_RANGE)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, metadata={"Software": None, DIGEST: digest(reports, name)})
    pyplot.close(figure)
    return path


def digest(reports: Sequence[Report], name: str) -> str:
    """SHA-256 of everything that a picture of these reports shows."""
    shown = [
        (
            _title(report),
            shown_rivals(report, name),
            [(v.name, speed(v), _interval(v, name)) for v in contenders(report)],
        )
        for report in reports
    ]
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()


def _panel(axis: Any, report: Report, name: str) -> None:
    """The best settings of each technique that is shown, joined to guide the eye; every other one is a grey point.

    Between two step counts there is none, so that fewer steps have stairs; what they reach or exceed is shaded.
    """
    variants = [variant for variant in contenders(report) if acted(variant)]
    shown = (*shown_rivals(report, name), OURS, FEWER)
    spare = iter(SPARE)
    drawn: list[Variant] = []
    for order, rival in enumerate(shown):
        best = front_of([variant for variant in variants if rival_of(variant) == rival], name)
        if not best:
            continue
        color, marker = STYLES.get(rival) or next(spare, (OTHERS, "."))
        speeds = [speed(variant) for variant in best]
        middle, low, high = zip(*(_clipped(variant, name) for variant in best), strict=True)
        errors = [[abs(m - end) for m, end in zip(middle, ends, strict=True)] for ends in (low, high)]
        axis.errorbar(speeds, middle, yerr=errors, color=color, linestyle="none", elinewidth=0.8, zorder=3 + order)
        heavy = rival in (OURS, FEWER)
        line = {"linewidth": 2.0 if heavy else 1.4, "markersize": 7 if heavy else 6, "linestyle": ":", "label": rival}
        if rival == FEWER:
            axis.fill_between(speeds, middle, EDGES[name][0], step="pre", color=BEATEN, zorder=0, linewidth=0)
            line |= {"drawstyle": "steps-pre", "linestyle": "-"}
        axis.plot(speeds, middle, color=color, marker=marker, zorder=3 + order, **line)
        drawn += best
    rest = [variant for variant in variants if variant not in drawn]
    points = [speed(each) for each in rest], [_clipped(each, name)[0] for each in rest]
    axis.scatter(*points, s=9, color=OTHERS, zorder=1, label="other settings")
    axis.set_title(_title(report), fontsize=10)
    axis.grid(alpha=0.25)
    axis.tick_params(labelbottom=True, labelleft=True)
    axis.legend(fontsize=8.5, loc="upper right", framealpha=0.9)


def _title(report: Report) -> str:
    settings = report.settings
    made = "images" if settings.num_frames is None else "videos"
    return f"{settings.model}: {settings.scheduler}, {settings.num_inference_steps} steps, {report.num_images} {made}"


def _interval(variant: Variant, name: str) -> tuple[float, float, float]:
    found = metric(variant, name)
    return (found.mean, *found.ci95)


def _clipped(variant: Variant, name: str) -> tuple[float, float, float]:
    """Mean and interval, brought to the edges where they lie beyond."""
    low, high = sorted(EDGES[name])
    mean, *ends = (min(max(value, low), high) for value in _interval(variant, name))
    return mean, ends[0], ends[1]
