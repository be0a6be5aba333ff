"""Intervals, worst parts and spreads."""

import numpy as np
import pytest

from dit_accel.evaluation.reports.statistics import bootstrap_interval, quartiles, worst_mean


def test_interval_holds_the_mean_and_is_redone_alike() -> None:
    values = list(np.random.default_rng(1).normal(30, 4, size=200))
    low, high = bootstrap_interval(values)
    assert low < np.mean(values) < high
    assert (low, high) == bootstrap_interval(values)
    half_width = 1.96 * np.std(values, ddof=1) / np.sqrt(200)  # the normal approximation
    assert (high - low) / 2 == pytest.approx(half_width, rel=0.15)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(2)
    hits = 0
    for trial in range(200):
        low, high = bootstrap_interval(list(random.normal(0, 1, size=50)), seed=trial)
        hits += low <= 0 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_interval_of_one_value_is_that_value() -> None:
    assert bootstrap_interval([7.0]) == (7.0, 7.0)


@pytest.mark.parametrize(("count", "expected"), [(1, 0.0), (20, 0.0), (21, 0.5), (100, 2.0)])
def test_worst_five_per_cent(count: int, expected: float) -> None:
    assert worst_mean([float(value) for value in reversed(range(count))]) == expected


def test_worst_is_the_other_end_where_lower_is_better() -> None:
    assert worst_mean([float(value) for value in range(100)], higher_is_better=False) == 97.0


def test_interval_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(3).gamma(2.0, size=120)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=9999, rng=0).confidence_interval
    assert bootstrap_interval(list(values)) == pytest.approx((theirs.low, theirs.high), rel=0.02)


def test_quartiles() -> None:
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)
