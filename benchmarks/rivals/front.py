"""Reads a report: which variants nobody beats, and who is the closest to the plain run at a given speed."""

from collections.abc import Sequence

from dit_accel.evaluation.metrics.perceptual import PERCEPTUAL
from dit_accel.evaluation.reports.records import Metric
from dit_accel.evaluation.reports.report import Report, Variant

OURS = "dit-accel"
CLOCK_FRAC = 0.05  # two runs of one thing on shared cores differ by as much; else 1.98x would lose to 2.01x by law


def metric_names(report: Report) -> tuple[str, ...]:
    """A perceptual distance, LPIPS before ST-LPIPS, where it was measured, and PSNR; empty for random weights."""
    scored = [variant.fidelity for variant in report.variants if variant.fidelity is not None]
    if not scored:
        return ()
    measured = [name for name in PERCEPTUAL if all(getattr(each, name) is not None for each in scored)]
    return (*measured[:1], "psnr_db")


def metric(variant: Variant, name: str) -> Metric:
    """One metric of a variant that has it."""
    found = getattr(variant.fidelity, name)
    assert isinstance(found, Metric)
    return found


def speed(variant: Variant) -> float:
    """Speed-up of the whole call."""
    return 1.0 if variant.speedup is None else variant.speedup.ratio


def contenders(report: Report) -> list[Variant]:
    """Everyone but the plain run, slowest first."""
    return sorted((v for v in report.variants if v.kind != "plain"), key=speed)


def rival_of(variant: Variant) -> str:
    """Name of the technique."""
    return "" if variant.contender is None else variant.contender.rival


def is_fast(variant: Variant, least_speed: float) -> bool:
    """Whether it is so fast, within what the clock can tell."""
    return speed(variant) >= least_speed * (1 - CLOCK_FRAC)


def acted(variant: Variant) -> bool:
    """Whether a technique did anything; fewer steps always do."""
    if variant.kind == "fewer_steps" or variant.contender is None or variant.contender.action is None:
        return True
    return variant.contender.action.acted


def closer(one: Variant, other: Variant, name: str) -> bool:
    """Whether ``one`` is closer to the plain run than ``other`` by that metric."""
    left, right = metric(one, name), metric(other, name)
    return left.mean > right.mean if left.higher_is_better else left.mean < right.mean


def front(report: Report, name: str) -> list[Variant]:
    """Variants of which no other one is both faster and closer, slowest first."""
    return front_of(contenders(report), name)


def front_of(variants: Sequence[Variant], name: str) -> list[Variant]:
    """Of some variants, those of which no other one is both faster and closer, slowest first."""
    found: list[Variant] = []
    for variant in sorted(variants, key=speed, reverse=True):
        if acted(variant) and (not found or closer(variant, found[-1], name)):
            found.append(variant)
    return found[::-1]


def closest(variants: Sequence[Variant], least_speed: float, name: str) -> Variant | None:
    """The closest to the plain run among those that are about so fast or faster."""
    best: Variant | None = None
    for variant in variants:
        if is_fast(variant, least_speed) and acted(variant) and (best is None or closer(variant, best, name)):
            best = variant
    return best


def overlap(one: Variant, other: Variant, name: str) -> bool:
    """Whether the 95 % intervals of the two means overlap: then they are not told apart."""
    left, right = metric(one, name).ci95, metric(other, name).ci95
    return left[0] <= right[1] and right[0] <= left[1]
