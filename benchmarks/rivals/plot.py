"""Draws one report: speed-up against LPIPS and against PSNR, every point labelled."""

from pathlib import Path
from typing import Any

from dit_accel.evaluation.report import Report, Variant
from rivals.front import acted, contenders, front, metric, metric_names, rival_of, speed
from rivals.measure import FEWER

WORDS = {
    "lpips": "LPIPS to the plain run (lower is closer)",
    "psnr_db": "PSNR to the plain run, dB (higher is closer)",
}
MARKERS = "osD^v<>PXpdh8"
PANEL_INCHES = (11.0, 9.0)
DPI = 110


def draw(report: Report, path: Path) -> Path:
    """Write a PNG with a panel for each metric. Points that did nothing are hollow.

    Raises:
        ValueError: The report has no fidelity (random weights).
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = metric_names(report)
    if not names:
        raise ValueError("a report of random weights has no fidelity to draw")
    figure, axes = pyplot.subplots(1, len(names), figsize=(PANEL_INCHES[0] * len(names), PANEL_INCHES[1]))
    for axis, name in zip([axes] if len(names) == 1 else axes, names, strict=True):
        _panel(axis, report, name)
    settings, environment = report.settings, report.environment
    figure.suptitle(
        f"{settings.model}, {settings.scheduler}, {settings.num_inference_steps} steps, {report.made}; "
        f"{environment.gpu if settings.device.startswith('cuda') else environment.cpu}, {report.created_utc[:10]}"
    )
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    pyplot.close(figure)
    return path


def _panel(axis: Any, report: Report, name: str) -> None:
    from matplotlib import colormaps

    variants = contenders(report)
    rivals = list(dict.fromkeys(rival_of(variant) for variant in variants))
    colors = colormaps["tab20"].colors  # type: ignore[attr-defined]
    for index, rival in enumerate(rivals):
        own = [variant for variant in variants if rival_of(variant) == rival]
        color = "black" if rival == FEWER else colors[index % len(colors)]
        if rival == FEWER:
            axis.plot(*_points(own, name), color=color, linewidth=1.2, zorder=2)
        for filled in (True, False):
            some = [variant for variant in own if acted(variant) == filled]
            if some:
                label = rival if filled else f"{rival}: did nothing"
                face = color if filled else "none"
                marker = MARKERS[index % len(MARKERS)]
                axis.scatter(*_points(some, name), s=26, facecolors=face, edgecolors=color, marker=marker, label=label)
        for variant in own:
            where = (speed(variant), metric(variant, name).mean)
            axis.annotate(_short(variant), where, xytext=(3, 3), textcoords="offset points", fontsize=5, color=color)
    axis.plot(
        *_points(front(report, name), name), color="crimson", linestyle="--", linewidth=1, label="front", zorder=1
    )
    if name == "lpips":
        axis.invert_yaxis()
    axis.axvline(1.0, color="grey", linewidth=0.5)
    axis.set_xlabel("speed-up of the whole call, by the clock")
    axis.set_ylabel(WORDS[name])
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, loc="lower left")


def _points(variants: list[Variant], name: str) -> tuple[list[float], list[float]]:
    return [speed(variant) for variant in variants], [metric(variant, name).mean for variant in variants]


def _short(variant: Variant) -> str:
    """The name without that of the technique, which the color tells."""
    return variant.name.removeprefix(rival_of(variant)).strip() or variant.name
