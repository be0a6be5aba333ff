"""Which way of sharing a pipeline among ranks is best, before anyone rents them: measured here, then foretold."""

from collections.abc import Sequence
from dataclasses import dataclass

from dit_accel.calibration.parallel_ways import Measured, Way
from dit_accel.passes.patch_parallel.config import PatchParallelConfig
from dit_accel.passes.patch_parallel.simulate import Evaluation, Link, Timeline, repeated, simulate

DATA = "data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What is foretold of one way.

    Attributes:
        name: Of the way.
        exact: Whether pictures stay as they are.
        picture_s: Seconds from the prompt to one picture.
        pictures_per_s: Of all ranks together.
        speedup: In latency, over one process.
        computed_frac: What the slowest rank computes in an evaluation, of what one process does.
        sent_mib: MiB that the busiest rank sends for a picture.
        waited_frac: Share of the time in which ranks wait for each other.
        hidden_frac: Share of the traffic that runs beside the computation.
    """

    name: str
    exact: bool
    picture_s: float
    pictures_per_s: float
    speedup: float
    computed_frac: float
    sent_mib: float
    waited_frac: float
    hidden_frac: float


def predict(
    measured: Measured, link: Link, *, evaluations: int, warmup: int
) -> tuple[tuple[Prediction, ...], dict[str, str]]:
    """What every way would take, the quickest first, and why others cannot be used in so many evaluations.

    Args:
        measured: Of the pipeline.
        link: Between the ranks.
        evaluations: Of a run.
        warmup: Of them, those that wait for fresh values where stale ones are used later.
    """
    alone_s = measured.rest_s + evaluations * measured.plain_s
    found = [
        Prediction(
            name=DATA,
            exact=True,
            picture_s=alone_s,
            pictures_per_s=measured.ranks / alone_s,
            speedup=1.0,
            computed_frac=1.0,
            sent_mib=0.0,
            waited_frac=0.0,
            hidden_frac=1.0,
        )
    ]
    refused = dict(measured.refused)
    for way in measured.ways:
        reason = PatchParallelConfig(warmup=warmup).why_not_stale(evaluations) if way.steady is not None else None
        if reason is not None:
            refused[way.name] = reason
            continue
        run = repeated(way.waiting, way.steady, evaluations=evaluations, warm=warmup)
        found.append(_prediction(way, run, simulate(run, link), measured))
    return tuple(sorted(found, key=lambda each: (each.picture_s, not each.exact))), refused


def verdict(predictions: Sequence[Prediction]) -> list[str]:
    """Which to take and why, a sentence each: for one picture exactly, whether a stale way is quicker, for many."""
    exact = [each for each in predictions if each.exact]
    best, quickest = exact[0], predictions[0]
    words = []
    if best.name == DATA:
        words.append("For one picture no exact way is quicker than a single rank. " + _why_not_quicker(exact[1:]))
    else:
        words.append(
            f"For one picture, exactly: {best.name}, {best.speedup:.2f} times as quick; ranks send "
            f"{best.sent_mib:.2f} MiB and wait {best.waited_frac:.0%} of the time."
        )
    if quickest is not best:
        words.append(
            f"{quickest.name} would be {quickest.speedup:.2f} times as quick ({quickest.hidden_frac:.0%} of its "
            "traffic is hidden), at a price in fidelity: see docs/parallel.md."
        )
    else:
        words.append("Nothing stale is quicker, so there is no reason to give up exactness.")
    data = next(each for each in predictions if each.name == DATA)
    most = max(predictions, key=lambda each: each.pictures_per_s)
    if most is data:
        words.append(f"For many pictures: data, one a rank: {data.pictures_per_s:.3g} a second, and nothing is sent.")
    else:
        words.append(f"For many pictures too: {most.name}, {most.pictures_per_s:.3g} a second.")
    return words


def _why_not_quicker(others: Sequence[Prediction]) -> str:
    if not others:
        return "There is none that can be used."
    nearest = others[0]
    return (
        f"The nearest, {nearest.name}, computes {nearest.computed_frac:.0%} of it on each rank and waits "
        f"{nearest.waited_frac:.0%} of its time."
    )


def _prediction(way: Way, run: Sequence[Evaluation], timeline: Timeline, measured: Measured) -> Prediction:
    alone_s = measured.rest_s + len(run) * measured.plain_s
    picture_s = measured.rest_s + timeline.total_s
    sent = sum(operation.sent for evaluation in run for operation in evaluation.operations)
    return Prediction(
        name=way.name,
        exact=way.exact,
        picture_s=picture_s,
        pictures_per_s=1 / picture_s,
        speedup=alone_s / picture_s,
        computed_frac=(way.steady or way.waiting).compute_s / measured.plain_s,
        sent_mib=sent / 2**20,
        waited_frac=timeline.waited_s / picture_s,
        hidden_frac=timeline.hidden_frac,
    )
