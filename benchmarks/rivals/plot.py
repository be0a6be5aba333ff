"""Draws one report: speed-up against a perceptual distance and against PSNR, every setting a point."""

from pathlib import Path
from typing import Any

from dit_accel.evaluation.reports.report import Report, Variant
from rivals.front import OURS, acted, contenders, front, front_of, metric, metric_names, rival_of, speed
from rivals.measure import FEWER

WORDS = {
    "lpips": "LPIPS to the plain run (up is closer; 0.0001 and less at the top)",
    "st_lpips": "ST-LPIPS to the plain run (up is closer; 0.0001 and less at the top)",
    "psnr_db": "PSNR to the plain run, dB (up is closer; 60 and more at the top)",
}
MARKERS = "osD^v<>PXpdh8"
PANEL_INCHES = (11.0, 9.0)
DPI = 110
LABEL_GAP = 0.1  # of a speed-up
EDGE = {"lpips": 1e-4, "st_lpips": 1e-4, "psnr_db": 60.0}


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
    """Every setting is a point; a line joins the best ones of a technique; names stand at the front of all."""
    from matplotlib import colormaps

    variants = contenders(report)
    rivals = list(dict.fromkeys(rival_of(variant) for variant in variants))
    colors = colormaps["tab20"].colors  # type: ignore[attr-defined]
    for index, rival in enumerate(rivals):
        own = [variant for variant in variants if rival_of(variant) == rival]
        color, marker = colors[index % len(colors)], MARKERS[index % len(MARKERS)]
        color = {FEWER: "black", OURS: "crimson"}.get(rival, color)
        best = front_of(own, name)
        axis.plot(*_points(best, name), color=color, linewidth=2.0 if rival in (FEWER, OURS) else 1.0, zorder=2)
        idle = [variant for variant in own if not acted(variant)]
        for some, size, face, alpha, label in (
            (best, 34, color, 1.0, rival),
            ([variant for variant in own if variant not in best and variant not in idle], 14, color, 0.45, None),
            (idle, 26, "none", 1.0, None if best else f"{rival}: did nothing"),
        ):
            if some:
                style = {"facecolors": face, "edgecolors": color, "marker": marker, "alpha": alpha, "label": label}
                axis.scatter(*_points(some, name), s=size, zorder=3, **style)
    leading = front(report, name)
    axis.plot(*_points(leading, name), color="grey", linestyle="--", linewidth=1, label="front of all", zorder=1)
    _name_points(axis, leading, name)
    if name != "psnr_db":
        axis.set_yscale("log")
        axis.invert_yaxis()
    axis.axvline(1.0, color="grey", linewidth=0.5)
    axis.set_xlabel("speed-up of the whole call, by the clock")
    axis.set_ylabel(WORDS[name])
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="upper right" if name == "psnr_db" else "lower left", ncols=2)


def _name_points(axis: Any, leading: list[Variant], name: str) -> None:
    """Names above the front, none nearer to the last one than can be read."""
    last = float("-inf")
    for variant, *here in zip(leading, *_points(leading, name), strict=True):
        if here[0] - last >= LABEL_GAP:
            last = here[0]
            style = {"fontsize": 7.5, "rotation": 25, "color": "#444444"}
            axis.annotate(variant.name, here, xytext=(6, 6), textcoords="offset points", **style)


def _points(variants: list[Variant], name: str) -> tuple[list[float], list[float]]:
    """Speed-ups and values; who is closer than can be seen is drawn at the edge."""
    values = [metric(variant, name).mean for variant in variants]
    clipped = [min(value, EDGE[name]) if name == "psnr_db" else max(value, EDGE[name]) for value in values]
    return [speed(variant) for variant in variants], clipped
