"""Numbers about numbers: an interval of a mean, the worst part, a spread. Seeded, so that a report can be redone."""

import math
from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000
WORST_FRAC = 0.05


def bootstrap_interval(values: Sequence[float], *, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (Efron 1979). A single value has no spread: both ends are it.

    Args:
        values: At least one number.
        level: Share of resampled means within the interval.
        seed: Of the resampling.
    """
    data = np.asarray(values, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(0, len(data), size=(RESAMPLES, len(data)))
    means = data[picks].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_median_interval(values: Sequence[float], *, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """The same of the median."""
    data = np.asarray(values, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(0, len(data), size=(RESAMPLES, len(data)))
    low, high = np.quantile(np.median(data[picks], axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def worst_mean(values: Sequence[float], *, frac: float = WORST_FRAC, higher_is_better: bool = True) -> float:
    """Mean of the worst ``frac`` of the values, of one value at least."""
    count = max(1, math.ceil(len(values) * frac))
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    return float((ordered[:count] if higher_is_better else ordered[-count:]).mean())


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile."""
    low, middle, high = np.quantile(np.asarray(values, dtype=np.float64), [0.25, 0.5, 0.75])
    return float(low), float(middle), float(high)
