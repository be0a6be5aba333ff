"""How metrics are called and written, and which way is better: one place for tables, certificates and verdicts."""

import math
from dataclasses import dataclass
from typing import Protocol

from dit_accel.plan.conformal import Bound


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricFacts:
    """One metric.

    Attributes:
        label: As people write it.
        unit: Appended to a number.
        digits: After the point.
        higher_is_better: ``None``: neither.
    """

    label: str
    unit: str = ""
    digits: int = 3
    higher_is_better: bool | None = True

    def number(self, value: float) -> str:
        """The value with its unit."""
        return f"{value:.{self.digits}f}{self.unit}"

    def bound(self, value: float) -> str:
        """A bound with its unit, rounded to the side on which it still holds."""
        scaled = round(value * 10**self.digits, 6)  # 0.3 * 10 is a little more than 3
        rounded = math.floor(scaled) if self.higher_is_better else math.ceil(scaled)
        return self.number(rounded / 10**self.digits)


class Spread(Protocol):
    """A mean with its interval and its worst part, such as ``report.Metric``."""

    @property
    def mean(self) -> float: ...
    @property
    def ci95(self) -> tuple[float, float]: ...
    @property
    def worst5(self) -> float: ...


FIDELITY = {
    "psnr_db": MetricFacts(label="PSNR", unit=" dB", digits=1),
    "ssim": MetricFacts(label="SSIM"),
    "lpips": MetricFacts(label="LPIPS", higher_is_better=False),
    "st_lpips": MetricFacts(label="ST-LPIPS", higher_is_better=False),
}
VIDEO_FIDELITY = {
    "temporal_error": MetricFacts(label="temporal error", digits=4, higher_is_better=False),
    "flicker_ratio": MetricFacts(label="flicker ratio", digits=2, higher_is_better=None),
}
QUALITY = {
    "alignment": MetricFacts(label="alignment"),
    "distance": MetricFacts(label="distance", higher_is_better=False),
    "temporal_flickering": MetricFacts(label="temporal flickering", digits=4),
    "frame_consistency": MetricFacts(label="frame consistency", digits=4),
    "motion_right": MetricFacts(label="motion right"),
}
SPEEDUP = MetricFacts(label="speed-up", unit="x", digits=2)
DENOISER_SPEEDUP = MetricFacts(label="denoiser speed-up", unit="x", digits=2)


def metric_facts(name: str) -> MetricFacts:
    """Facts of a field of a record; an unknown one is shown by its name, with no verdict."""
    known = {**FIDELITY, **VIDEO_FIDELITY, **QUALITY}
    return known.get(name) or MetricFacts(label=name, higher_is_better=None)


def interval_words(facts: MetricFacts, middle: float, interval: tuple[float, float] | None) -> str:
    """``36.1 dB [35.6, 36.7]``."""
    if interval is None:
        return facts.number(middle)
    low, high = (f"{end:.{facts.digits}f}" for end in interval)
    return f"{facts.number(middle)} [{low}, {high}]"


def spread_words(facts: MetricFacts, spread: Spread) -> str:
    """``PSNR 36.1 dB [35.6, 36.7], worst 5 % 27.9 dB``."""
    middle = interval_words(facts, spread.mean, spread.ci95)
    return f"{facts.label} {middle}, worst 5 % {facts.number(spread.worst5)}"


def bound_words(facts: MetricFacts, bound: Bound) -> str:
    """``above PSNR 51.2 dB``, or ``below ST-LPIPS 0.001``."""
    return f"{'above' if facts.higher_is_better else 'below'} {facts.label} {facts.bound(bound.value)}"
