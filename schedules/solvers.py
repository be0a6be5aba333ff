"""Which steps to compute, from measured errors: the published solvers on plain arrays, each with its source.

Two kinds of tables go in. *Distances* [T, T]: entry [i, j] is the error of answering step j with what step i gave.
*Gaps* [T, T + 1]: entry [i, j] is the cost of computing step i, answering all steps between i and j from it, and
computing again at j; j = T is the end of the run. What was not measured is NaN or infinite, and then not taken.

Every solver of steps returns the computed ones in ascending order, step 0 among them; :func:`bits` makes a row of it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from dit_accel.schedules.schedule import Schedule, ScheduleError

Table = npt.NDArray[np.float64]
Errors = Mapping[str, Sequence[Sequence[float]]]
"""Kind of module to a curve: entry [i][k - 1] is the error of answering step i + k with step i."""

L = TypeVar("L", float, tuple[float, ...])


def summed_gaps(distances: Table) -> Table:
    """Gaps [T, T + 1] that cost what their answered steps cost together.

    Args:
        distances: [T, T].
    """
    num_steps = len(distances)
    gaps = np.full((num_steps, num_steps + 1), np.nan)
    for i in range(num_steps):
        gaps[i, i + 1] = 0.0
        gaps[i, i + 2 :] = np.cumsum(distances[i, i + 1 :])
    return gaps


def ordered_groups(
    distances: Table, num_groups: int, *, shortest: int = 1, longest: int | None = None
) -> tuple[int, ...]:
    """Cut the steps into consecutive groups, each answered by its first step, at the least total distance.

    The dynamic programming schedule of CacheQuant (Liu and Zhang, arXiv 2503.01323), which is Fisher's grouping of
    ordered points (1958) with the first point of a group in place of its mean. The paper limits groups to between
    half and twice the mean length, to save time; distances are summed up once here, so that no limit is needed.

    Args:
        distances: [T, T], above the diagonal; the paper sums absolute differences of one cached feature.
        num_groups: K, the steps that are computed.
        shortest: Fewest steps in a group.
        longest: Most steps in a group.

    Raises:
        ScheduleError: No such grouping exists.
    """
    return shortest_path(summed_gaps(distances), num_groups, shortest=shortest, longest=longest)


def shortest_path(
    gaps: Table, num_computed: int, *, gamma: float = 1.0, shortest: int = 1, longest: int | None = None
) -> tuple[int, ...]:
    """The steps to compute at which the sum of gap ** gamma is least.

    The path of MeanCache (arXiv 2601.19961), which takes gamma = 4 so that one bad gap costs more than several good
    ones, and with gamma = 1 that of DPCache (arXiv 2602.22654). DPCache's costs also depend on the computed step
    before the last one, from which it extrapolates; a reused value does not.

    Args:
        gaps: [T, T + 1], none negative.
        num_computed: How many steps are computed.
        gamma: Above 0; the greater, the nearer to :func:`minimax_path`.
        shortest: Fewest steps from one computed step to the next.
        longest: Most of them.

    Raises:
        ScheduleError: No such path exists, or ``gamma`` is not above 0.
    """
    if not gamma > 0:
        raise ScheduleError(f"'gamma' must be above 0, got {gamma}")
    largest = float(np.max(gaps, initial=0.0, where=np.isfinite(gaps))) or 1.0
    powers = (gaps / largest) ** gamma  # scaled, or a high power would overflow or vanish
    return _best_path(powers, num_computed, shortest, longest, 0.0, lambda total, gap: total + gap)


def minimax_path(gaps: Table, num_computed: int, *, shortest: int = 1, longest: int | None = None) -> tuple[int, ...]:
    """The steps to compute at which the worst gap is least; among equals the second worst, and so on.

    The lexicographic minimax path of LeMiCa (arXiv 2511.00090). Descending lists of equal length keep their order
    when the same gap is added to both, so the best path to a step extends the best paths to earlier ones.

    Args:
        gaps: [T, T + 1]; in the paper the error of the final picture when that gap alone is answered.
        num_computed: How many steps are computed.
        shortest: Fewest steps from one computed step to the next.
        longest: Most of them.

    Raises:
        ScheduleError: No such path exists.
    """

    def extended(worst: tuple[float, ...], gap: float) -> tuple[float, ...]:
        return tuple(sorted((*worst, gap), reverse=True))

    start: tuple[float, ...] = ()
    return _best_path(gaps, num_computed, shortest, longest, start, extended)


def smooth_steps(curve: Sequence[Sequence[float]], *, alpha: float, max_skip: int) -> tuple[int, ...]:
    """From each computed step on, answer as many steps as stay below ``alpha``, one after the other.

    The rule of SmoothCache (Liu et al., arXiv 2411.10510).

    Args:
        curve: Entry [i][k - 1] is the error of answering step i + k with step i.
        alpha: Errors have to be below it.
        max_skip: Most steps that one computation serves after its own.
    """
    computed: list[int] = []
    step = 0
    while step < len(curve):
        computed.append(step)
        skip = 0
        while skip < min(max_skip, len(curve[step])) and curve[step][skip] < alpha:
            skip += 1
        step += skip + 1
    return tuple(computed)


def smooth_schedule(errors: Errors, sites: Mapping[str, str], *, alpha: float, max_skip: int) -> Schedule:
    """SmoothCache's schedule: all modules of a kind share the steps of :func:`smooth_steps`.

    Args:
        errors: The curve of each kind.
        sites: Site id to its kind; those of other kinds are computed at every step.
        alpha: Errors have to be below it.
        max_skip: Most steps that one computation serves after its own.
    """
    num_steps = len(next(iter(errors.values())))
    rows = {
        kind: bits(smooth_steps(curve, alpha=alpha, max_skip=max_skip), num_steps) for kind, curve in errors.items()
    }
    return Schedule(num_steps, {site: rows[kind] for site, kind in sites.items() if kind in rows})


def smallest_alpha(errors: Errors, sites: Mapping[str, str], *, share: float, max_skip: int) -> float:
    """The least alpha with which :func:`smooth_schedule` computes at most ``share`` of all (step, site) pairs.

    Not in the paper, which sweeps alpha by hand: it lets the rule be compared at equal work.

    Raises:
        ScheduleError: ``max_skip`` allows no such alpha.
    """
    found = {error for curve in errors.values() for row in curve for error in row[:max_skip] if np.isfinite(error)}
    counts = {kind: sum(other == kind for other in sites.values()) for kind in errors}
    num_steps = len(next(iter(errors.values())))
    most = share * num_steps * sum(counts.values()) + 1e-9
    for error in sorted(found):
        alpha = float(np.nextafter(error, np.inf))
        computed = sum(
            counts[kind] * len(smooth_steps(curve, alpha=alpha, max_skip=max_skip)) for kind, curve in errors.items()
        )
        if computed <= most:
            return alpha
    raise ScheduleError(f"no alpha computes as little as {share:.0%} when one step may serve {max_skip} more")


def bits(computed: Sequence[int], num_steps: int) -> tuple[bool, ...]:
    """A schedule's row: whether each step is computed."""
    chosen = frozenset(computed)
    return tuple(step in chosen for step in range(num_steps))


def _best_path(
    gaps: Table, num_computed: int, shortest: int, longest: int | None, start: L, extend: Callable[[L, float], L]
) -> tuple[int, ...]:
    """The path 0 -> T of ``num_computed`` gaps whose label is least; ``extend`` must keep the order of labels."""
    num_steps = len(gaps)
    _check(gaps, num_computed)
    label: Any
    path: tuple[int, ...]
    best: dict[int, tuple[Any, tuple[int, ...]]] = {0: (start, (0,))}
    for left in reversed(range(num_computed)):
        further: dict[int, tuple[Any, tuple[int, ...]]] = {}
        for i, (label, path) in best.items():
            last = num_steps if left == 0 else num_steps - left
            first = max(i + shortest, num_steps) if left == 0 else i + shortest
            for j in range(first, min(last, num_steps if longest is None else i + longest) + 1):
                if not np.isfinite(gaps[i, j]):
                    continue
                extended = extend(label, float(gaps[i, j]))
                if j not in further or extended < further[j][0]:
                    further[j] = (extended, (*path, j))
        best = further
    if num_steps not in best:
        raise ScheduleError(
            f"no way through {num_steps} steps computes {num_computed} of them with {shortest} to "
            f"{longest or num_steps} steps from one to the next, over gaps that were measured"
        )
    return best[num_steps][1][:-1]


def _check(gaps: Table, num_computed: int) -> None:
    num_steps = len(gaps)
    if gaps.shape != (num_steps, num_steps + 1):
        raise ScheduleError(f"gaps must have the shape [T, T + 1], got {list(gaps.shape)}")
    if not 1 <= num_computed <= num_steps:
        raise ScheduleError(f"of {num_steps} steps 1 to {num_steps} can be computed, not {num_computed}")
    if np.any(gaps < 0):
        raise ScheduleError("a gap is negative; errors are not")
