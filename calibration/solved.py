"""Schedules for a given pipeline from the published solvers: a recording goes in, a schedule comes out.

Record once, then solve for as many budgets as are wanted. Every schedule is run by ``StaticCacheConfig``.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from dit_accel.calibration.corrections import fit_corrections
from dit_accel.calibration.curves import Curves, record_curves
from dit_accel.passes.static_cache import StaticCacheConfig
from dit_accel.schedules import Schedule
from dit_accel.schedules.generators import LEAF_KINDS
from dit_accel.schedules.solvers import (
    Table,
    bits,
    minimax_path,
    ordered_groups,
    shortest_path,
    smallest_alpha,
    smooth_schedule,
    summed_gaps,
)

MAX_SKIP = 3  # K of SmoothCache, as in the authors' code


def smoothcache_schedule(
    curves: Curves, *, alpha: float | None = None, share: float | None = None, max_skip: int = MAX_SKIP
) -> Schedule:
    """SmoothCache (arXiv 2411.10510): each kind of module skips while its error stays below alpha.

    Args:
        curves: Of the pipeline.
        alpha: Largest error that is accepted; the authors take 0.08 to 0.35 for DiT-XL/2.
        share: In place of alpha: the share of module calls that may be computed, for which the least alpha is taken.
        max_skip: Most steps that one computation serves after its own.

    Raises:
        ScheduleError: No alpha computes so little.
        ValueError: Not one of ``alpha`` and ``share`` is given.
    """
    if (alpha is None) == (share is None):
        raise ValueError("give either 'alpha' or 'share'")
    errors = curves.by_kind(max_skip)
    sites = {site: curves.kinds[site] for site in curves.sites()}
    if alpha is None:
        assert share is not None
        alpha = smallest_alpha(errors, sites, share=share, max_skip=max_skip)
    return smooth_schedule(errors, sites, alpha=alpha, max_skip=max_skip)


def cachequant_schedule(
    curves: Curves, *, num_computed: int, kinds: Iterable[str] = LEAF_KINDS, longest: int | None = None
) -> Schedule:
    """CacheQuant's grouping of steps (arXiv 2503.01323), one for all sites.

    The paper keeps one feature and sums its absolute differences. We keep many, of different sizes, so that relative
    ones are averaged.

    Args:
        curves: Of the pipeline.
        num_computed: K, the groups.
        kinds: Of the sites that are reused.
        longest: Most steps in a group; the paper's is twice the mean.

    Raises:
        ScheduleError: There is no such grouping.
    """
    sites = curves.sites(kinds)
    return _at(ordered_groups(curves.mean(sites), num_computed, longest=longest), sites, curves.num_steps)


def shortest_path_schedule(
    curves: Curves, *, num_computed: int, gamma: float = 4.0, kinds: Iterable[str] = LEAF_KINDS
) -> Schedule:
    """The path of MeanCache (arXiv 2601.19961; gamma 4 is the best of its table) over the errors of the whole output.

    A gap costs what its answered steps cost together when the model's output is kept. MeanCache predicts from the mean
    velocity in place of keeping the last output, which a cache of sites does not.

    Args:
        curves: Of the pipeline, with the kind ``"model"``.
        num_computed: How many steps are computed.
        gamma: Above 0.
        kinds: Of the sites that are reused.

    Raises:
        ScheduleError: There is no such path.
    """
    gaps = summed_gaps(curves.mean(curves.sites(("model",))))
    return _at(shortest_path(gaps, num_computed, gamma=gamma), curves.sites(kinds), curves.num_steps)


def lemica_schedule(gaps: Table, sites: Sequence[str], *, num_computed: int) -> Schedule:
    """LeMiCa's lexicographic minimax path (arXiv 2511.00090).

    Args:
        gaps: Of :func:`~dit_accel.calibration.gaps.record_gaps`: errors of the final output.
        sites: The sites with which they were measured.
        num_computed: How many steps are computed.

    Raises:
        ScheduleError: There is no such path over the gaps that were measured.
    """
    return _at(minimax_path(gaps, num_computed), sites, len(gaps))


def fit_cachequant(
    pipe: Any,
    run: Callable[[], object],
    *,
    num_computed: int,
    kinds: Iterable[str] = LEAF_KINDS,
    scheduler: Any = None,
) -> StaticCacheConfig:
    """CacheQuant without its quantisation: groups of steps, then corrections. ``run`` is called twice."""
    chosen = tuple(kinds)
    curves = record_curves(pipe, run, kinds=chosen, scheduler=scheduler)
    schedule = cachequant_schedule(curves, num_computed=num_computed, kinds=chosen)
    corrections = fit_corrections(pipe, run, schedule, scheduler=scheduler)
    return StaticCacheConfig(schedule=schedule, corrections=corrections)


def _at(computed: Sequence[int], sites: Sequence[str], num_steps: int) -> Schedule:
    return Schedule(num_steps, dict.fromkeys(sites, bits(computed, num_steps)))
