"""Ways to choose a point: by time, by quality, by a brushed range, by a row, by a thumbnail. All end in a key."""

from collections.abc import Sequence

from dit_accel.app.points import FLOORS, Front, FrontPoint, error_of
from dit_accel.errors import ConfigError, did_you_mean
from dit_accel.plan.facts import metric_facts


def choosable(front: Front, metric: str) -> tuple[FrontPoint, ...]:
    """Points that a limit can lead to: the plain run, our plans, and plain with fewer steps where it is measured."""
    return tuple(point for point in front.points if point.kind != "rival" and point.has(metric))


def by_time(front: Front, metric: str, most_s: float, least_s: float = 0.0) -> FrontPoint:
    """The most faithful point within a time, seconds an image or video.

    Args:
        front: Of the model.
        metric: Says what is faithful.
        most_s: The budget, or the right end of a brushed range.
        least_s: The left end of a brushed range.

    Raises:
        ConfigError: No point is so fast, or none lies in the range; says what the nearest one takes.
    """
    times = {point.key: front.time_s(point) for point in choosable(front, metric)}
    timed = {key: seconds for key, seconds in times.items() if seconds is not None}
    if not timed:
        raise ConfigError(f"nothing of '{front.model}' was timed yet, so no time can be asked for")
    # Half a per cent, for what a slider or a brush rounds away.
    inside = [key for key, seconds in timed.items() if least_s * 0.995 <= seconds <= most_s * 1.005]
    if not inside:
        near = min(timed, key=lambda key: min(abs(timed[key] - most_s), abs(timed[key] - least_s)))
        span = f"between {least_s:.3g} and {most_s:.3g} s" if least_s else f"within {most_s:.3g} s"
        raise ConfigError(f"no point lies {span}; the nearest, {front.point(near).label}, takes {timed[near]:.3g} s")
    return min((front.point(key) for key in inside), key=lambda p: (error_of(p, metric), timed[p.key]))


def by_quality(front: Front, metric: str, limit: float) -> FrontPoint:
    """The fastest point that is at least so faithful.

    Args:
        front: Of the model.
        metric: What the limit is of.
        limit: The least PSNR or SSIM, or the greatest distance.
    """
    facts = metric_facts(metric)
    # Half of the last place that is shown, which a dial has rounded away.
    slack = 0.5 * 10.0**-facts.digits if metric not in FLOORS else 0.006 * abs(limit)
    bound = slack + (-limit if facts.higher_is_better else limit)
    fine = [p for p in choosable(front, metric) if p.kind == "plain" or error_of(p, metric) <= bound]
    if not fine:
        raise ConfigError(f"nothing of '{front.model}' was measured by {metric_facts(metric).label} yet")
    return max(fine, key=lambda point: (1.0 if point.ratio is None else point.ratio, -error_of(point, metric)))


def by_label(shown: Sequence[FrontPoint], label: str) -> FrontPoint:
    """The point of a row of the table, or of a thumbnail, by what is written there.

    Raises:
        ConfigError: There is no such row.
    """
    labels = [point.label for point in shown]
    if label not in labels:
        raise ConfigError(f"there is no point called '{label}'.{did_you_mean(label, labels)}")
    return shown[labels.index(label)]
