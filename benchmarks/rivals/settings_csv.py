"""Every setting of every technique as CSV: what the page leaves out."""

import csv
import io
from collections.abc import Iterator, Sequence

from dit_accel.evaluation.reports.report import Report, Variant
from rivals.front import contenders, front, metric, metric_names, speed

METRICS = ("psnr_db", "ssim", "lpips", "st_lpips")


def settings_csv(reports: Sequence[Report]) -> str:
    """One line a setting, slowest first; a cell is empty where nothing was measured."""
    text = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for report in reports:
        best = {variant.name for name in metric_names(report) for variant in front(report, name)}
        for variant in contenders(report):
            row = dict(_cells(report, variant, variant.name in best))
            if writer is None:
                writer = csv.DictWriter(text, list(row), lineterminator="\n")
                writer.writeheader()
            writer.writerow(row)
    return text.getvalue()


def _cells(report: Report, variant: Variant, on_front: bool) -> Iterator[tuple[str, object]]:
    settings, contender, denoiser = report.settings, variant.contender, variant.denoiser
    done = None if contender is None else contender.action
    yield "model", settings.model
    yield "scheduler", settings.scheduler
    yield "plain_steps", settings.num_inference_steps
    yield "n", report.num_images
    yield "technique", "" if contender is None else contender.rival
    yield "setting", variant.name
    yield "steps", variant.num_inference_steps
    yield "authors_advice", "yes" if contender is not None and contender.advised else "no"
    yield "on_a_front", "yes" if on_front else "no"
    yield "speedup", f"{speed(variant):.3f}"
    low, high = (variant.speedup.ci95 if variant.speedup is not None else None) or ("", "")
    yield "speedup_low95", low and f"{low:.3f}"
    yield "speedup_high95", high and f"{high:.3f}"
    ratio = denoiser.speedup.ratio if denoiser is not None and denoiser.speedup is not None else None
    yield "denoiser_speedup", "" if ratio is None else f"{ratio:.3f}"
    yield "macs_saved_frac", "" if done is None else f"{done.saved_frac:.4f}"
    yield "did_something", "" if done is None else "yes" if done.acted else "no"
    for name in METRICS:
        there = variant.fidelity is not None and getattr(variant.fidelity, name) is not None
        digits = 2 if name == "psnr_db" else 5
        found = metric(variant, name) if there else None
        ends = ("", "") if found is None else found.ci95
        yield name, "" if found is None else f"{found.mean:.{digits}f}"
        yield f"{name}_low95", "" if found is None else f"{ends[0]:.{digits}f}"
        yield f"{name}_high95", "" if found is None else f"{ends[1]:.{digits}f}"
        yield f"{name}_worst5", "" if found is None else f"{found.worst5:.{digits}f}"
