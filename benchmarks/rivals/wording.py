"""How the page writes a report's title and values."""

from dit_accel.evaluation.reports.report import Report, Variant
from rivals.front import metric

NAMES = {"lpips": "LPIPS", "st_lpips": "ST-LPIPS", "psnr_db": "PSNR"}


def title(report: Report) -> str:
    """Model, scheduler and steps."""
    return f"{report.settings.model}, {report.settings.scheduler}, {report.settings.num_inference_steps} steps"


def value(variant: Variant, name: str) -> str:
    """The mean of a metric with its unit."""
    return number(metric(variant, name).mean, name) + (" dB" if name == "psnr_db" else "")


def number(value: float, name: str) -> str:
    """A value of a metric, without its unit."""
    return f"{value:.1f}" if name == "psnr_db" else f"{value:.4f}"


def cell(text: str) -> str:
    """A text that may stand in a table."""
    return text.replace("|", "\\|")
