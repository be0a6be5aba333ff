"""Conformal bounds hold as often as they say; certificates that lack them take them from their own report alone."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dit_accel.schedules
from dit_accel import AccelerationPlan
from dit_accel.evaluation.reports.report import REPORT_FILE, Metric, Report
from dit_accel.plan.conformal import Bound, conformal_bound
from dit_accel.plan.facts import bound_words, metric_facts
from dit_accel.plan.plan import PLAN_FILE

FAST = Path(dit_accel.schedules.__file__).parent / "plans" / "emoji-flux" / "fast"


@settings(max_examples=20, deadline=None)
@given(st.integers(9, 120), st.floats(0.6, 0.97), st.booleans(), st.integers(0, 2**16))
def test_coverage_is_what_is_promised_and_hardly_more(n: int, level: float, higher: bool, seed: int) -> None:
    """Of exchangeable values: within [level, level + 1 / (n + 1)], up to the trials' own noise."""
    trials = 4000
    draws = np.random.default_rng(seed).standard_cauchy((trials, n + 1)) ** 3
    bounds = [conformal_bound(row[:-1], level=level, higher_is_better=higher) for row in draws]
    if bounds[0] is None:
        assert (n + 1) * (1 - level) < 1
        return
    kept = [
        new >= bound.value if higher else new <= bound.value for new, bound in zip(draws[:, -1], bounds, strict=True)
    ]
    noise = 5 * math.sqrt(level * (1 - level) / trials)
    assert level - noise <= np.mean(kept) <= level + 1 / (n + 1) + noise


def test_values_of_one_distribution_that_are_not_alike_break_it() -> None:
    """What exchangeability forbids: new prompts that are harder than the held-out ones."""
    rng = np.random.default_rng(0)
    bound = conformal_bound(rng.normal(40, 3, 200))
    assert np.mean(rng.normal(30, 3, 1000) >= bound.value) < 0.5


@pytest.mark.parametrize(("n", "rank"), [(9, 1), (10, 1), (19, 2), (100, 10), (200, 20)])
def test_it_is_the_kth_worst(n: int, rank: int) -> None:
    values = list(np.random.default_rng(n).permutation(n).astype(float))
    assert conformal_bound(values) == Bound(value=rank - 1, level=0.9, n=n)
    assert conformal_bound(values, higher_is_better=False) == Bound(value=n - rank, level=0.9, n=n)


def test_too_few_values_promise_nothing() -> None:
    assert conformal_bound([50.0] * 8) is None
    assert conformal_bound([50.0] * 98, level=0.99) is None
    assert Metric.of([50.0] * 8).bound is None


def test_words_are_rounded_to_the_side_that_holds() -> None:
    psnr, distance = metric_facts("psnr_db"), metric_facts("st_lpips")
    assert bound_words(psnr, Bound(value=51.29, level=0.9, n=9)) == "above PSNR 51.2 dB"
    assert bound_words(distance, Bound(value=0.00011, level=0.9, n=9)) == "below ST-LPIPS 0.001"
    assert psnr.bound(51.3) == "51.3 dB" and distance.bound(0.003) == "0.003"
    assert Bound(value=1.0, level=0.9, n=9).share == "9 of 10"
    assert Bound(value=1.0, level=0.95, n=99).share == "19 of 20"


def test_a_certificate_without_bounds_takes_those_of_its_report(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FAST, tmp_path / "fast"))
    path = folder / PLAN_FILE
    data = json.loads(path.read_text())
    if data["certificate"]["version"] > 1:
        pytest.skip("what ships has bounds already")
    plan, metric = AccelerationPlan.from_pretrained(folder), Report.load(folder).variant("fast").fidelity.psnr_db
    certificate = plan.certificate
    assert plan.is_certified and certificate.version == 2
    worst = sorted(metric.per_image)[math.floor((metric.n + 1) * 0.1) - 1]
    assert certificate.fidelity["psnr_db"].bound == metric.bound == Bound(value=worst, level=0.9, n=metric.n)
    assert certificate.rival.fidelity["psnr_db"].bound.value < worst
    assert "9 of 10 new prompts like these stay above PSNR" in certificate.words()[1]
    assert "and below ST-LPIPS" in certificate.words()[1] and f"n = {metric.n}" in certificate.words()[1]

    plan.save_pretrained(tmp_path / "alone")
    assert AccelerationPlan.from_pretrained(tmp_path / "alone") == plan, "once they are read, they stay"

    (folder / REPORT_FILE).write_text((folder / REPORT_FILE).read_text() + " ")
    changed = AccelerationPlan.from_pretrained(folder)
    assert changed.is_certified and changed.certificate.fidelity["psnr_db"].bound is None

    data["certificate"]["fidelity"]["psnr_db"]["mean"] += 5
    path.write_text(json.dumps(data))
    shutil.copy(FAST / REPORT_FILE, folder)
    broken = AccelerationPlan.from_pretrained(folder)
    assert not broken.is_certified and "changed after it was issued" in broken.certificate_fault
