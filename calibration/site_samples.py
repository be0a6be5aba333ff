"""What timed calls say of the sites that they left out: the table of one denoiser, solved from samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from dit_accel.calibration.latency import DenoiserTimes, products_of
from dit_accel.families.targets import Target
from dit_accel.schedules.generators import LEAF_KINDS
from dit_accel.schedules.graph import SiteGraph
from dit_accel.schedules.lowering import REUSE, SKIP


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One timed denoiser call.

    Attributes:
        denoiser: Its name.
        step: Evaluation of the run.
        actions: What each site did.
        seconds: It took.
    """

    denoiser: str
    step: int
    actions: tuple[str, ...]
    seconds: float


def typical(samples: Sequence[float]) -> float:
    """The mean of the middle four fifths: a run adds calls up, so that the mean counts, but for what disturbed one."""
    cut = len(samples) // 10
    return fmean(sorted(samples)[cut : len(samples) - cut])


def lent(denoisers: Mapping[str, DenoiserTimes]) -> dict[str, DenoiserTimes]:
    """Of two denoisers that take turns one may have too few evaluations: what was not seen is the other's."""
    seen: dict[str, float] = {}
    for times in denoisers.values():
        seen = {**times.sites_s, **seen}
    overlap = max(times.overlap for times in denoisers.values())
    return {
        name: replace(
            times,
            sites_s={**seen, **times.sites_s},
            overlap=times.overlap or overlap,
        )
        for name, times in denoisers.items()
    }


def solved(
    target: Target, entries: Sequence[tuple[str, ...]], runs: Sequence[list[Sample]], answered: Sequence[Sample]
) -> DenoiserTimes:
    """Of one denoiser: a typical whole call, and what each entry saves against its neighbours."""
    graph = target.layout.graph
    entry_of = {site: place for place, entry in enumerate(entries) for site in entry if site in graph}
    whole: list[float] = []
    first: list[float] = []
    saved: dict[tuple[int, ...], list[float]] = {}
    for run in runs:
        own = [sample for sample in run if sample.denoiser == target.name]
        idle = [_idle(graph, sample.actions, entry_of) for sample in own]
        whole += [sample.seconds for place, sample in enumerate(own) if place and not idle[place]]
        first += [sample.seconds for sample in own if sample.step == own[0].step]
        for place, sample in enumerate(own):
            around = [own[k].seconds for k in _plain_neighbours(place, idle)]
            if idle[place] and around:
                saved.setdefault(idle[place], []).append(sum(around) / len(around) - sample.seconds)
    # Where a reuse leaves other sites unread, what these cost is known from their own entry: one equation each.
    leaf = {place for site, place in entry_of.items() if graph.sites[graph.index[site]].kind in LEAF_KINDS}
    single = {row: typical(each) for row, each in saved.items() if len(leaf) < 2 or not leaf <= {*row}}
    counts = np.array([[row.count(place) for place in range(len(entries))] for row in single])
    each = np.linalg.lstsq(counts, np.array([*single.values()]), rcond=None)[0] if single else np.zeros(len(entries))
    each = np.maximum(each, 0.0)
    unseen = {place for place in range(len(entries)) if not any(place in row for row in single)}
    call_s, overlaps = typical(whole), []
    for row, differences in saved.items():
        apart = [row.count(place) * float(each[place]) for place in {*row}]
        if row not in single and products_of(apart) > 0:
            overlaps.append((sum(apart) - typical(differences)) * call_s / products_of(apart))
    times = [sample.seconds for sample in answered if sample.denoiser == target.name]
    return DenoiserTimes(
        call_s=call_s,
        answered_s=typical(times) if times else 0.0,
        first_s=max(0.0, typical(first) - call_s),
        sites_s={site: float(each[place]) for site, place in entry_of.items() if place not in unseen},
        entries={site: place for site, place in entry_of.items() if place in leaf},
        overlap=max(0.0, typical(overlaps)) if overlaps else 0.0,
    )


def _plain_neighbours(place: int, idle: Sequence[tuple[int, ...]]) -> list[int]:
    """The nearest calls before and after in which everything was computed; the first call of a run warms up."""
    before = next((k for k in range(place - 1, 0, -1) if not idle[k]), None)
    after = next((k for k in range(place + 1, len(idle)) if not idle[k]), None)
    return [k for k in (before, after) if k is not None]


def _idle(graph: SiteGraph, actions: Sequence[str], entry_of: Mapping[str, int]) -> tuple[int, ...]:
    """The entries of the outermost sites that a call does not compute, one for each site."""
    gone: set[str] = set()
    found = []
    for site, action in zip(graph, actions, strict=True):
        if site.parent in gone:
            gone.add(site.id)
        elif action in (REUSE, SKIP):
            gone.add(site.id)
            found += [entry_of[site.id]] if site.id in entry_of else []
    return tuple(sorted(found))
