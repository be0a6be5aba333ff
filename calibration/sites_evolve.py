"""NSGA-II over calls and sites: a surrogate screens children, real runs with successive halving judge them.

Selection is DEAP's (Deb et al. 2002), the order of everything that of one random generator, judgements are kept by the
caller: searching again with all of them at hand gives the same populations at once, which is how a stopped search
goes on.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dit_accel.calibration.sites_genome import Genome, Groups, crossed, mutated
from dit_accel.calibration.sites_judge import SitePoint
from dit_accel.calibration.sites_surrogate import Surrogate
from dit_accel.errors import MissingDependencyError

BROOD = 6  # children made for each one that is judged
REFERENCE_DB = -15.0  # of the hypervolume: nothing below 15 dB counts

Judge = Callable[[Genome, int], SitePoint]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteGeneration:
    """One generation.

    Attributes:
        number: From 0 on.
        population: The survivors, judged by all prompts.
        hypervolume: Of all that was judged by all prompts, by share of the plain run's seconds saved and decibel;
            ``None``: moocore is missing.
    """

    number: int
    population: tuple[SitePoint, ...]
    hypervolume: float | None


def evolve_sites(
    first: Sequence[Genome],
    more: Sequence[Genome],
    judge: Judge,
    surrogate: Surrogate,
    seconds: Callable[[Genome], float],
    groups: Groups,
    counts: Sequence[int],
    *,
    fixed: frozenset[int],
    population: int = 24,
    children: int = 12,
    seed: int = 0,
) -> Iterator[SiteGeneration]:
    """Generation after generation, without end; the caller stops.

    Args:
        first: Judged by all prompts, whatever they are worth: rivals and our own solver's plans.
        more: Further seeds, which have to survive the halving.
        judge: Fits and judges a genome by so many prompts.
        surrogate: Guesses errors; taught by everything that was judged.
        seconds: Of a genome's run, by the table of site times.
        groups: Of sites.
        counts: Prompts of each rung, ascending; the last is all.
        fixed: Evaluations that stay computed.
        population: Survivors of a generation.
        children: That begin the halving in each generation.
        seed: Of the random choices.

    Raises:
        MissingDependencyError: DEAP is not installed.
    """
    rng = random.Random(seed)
    everyone: dict[Genome, SitePoint] = {}
    tried: set[Genome] = set()

    def judged(genomes: Sequence[Genome], rungs: Sequence[int]) -> dict[Genome, SitePoint]:
        left = list(dict.fromkeys(genomes))
        for place, count in enumerate(rungs):
            points = {genome: judge(genome, count) for genome in left}
            tried.update(points)
            if place + 1 == len(rungs):
                everyone.update(points)
                surrogate.learn(list(everyone), [point.error for point in everyone.values()])
                return points
            aims = [(point.seconds, -point.score_db) for point in points.values()]
            left = selected(left, aims, max(1, len(left) // 2))
        return {}

    alive = judged(first, counts[-1:])
    alive |= judged([genome for genome in more if genome not in alive], counts)
    number = 0
    while True:
        if number:
            brood = _brood(rng, list(alive), tried, groups, fixed, BROOD * children)
            chosen = selected(brood, [(seconds(genome), surrogate(genome)) for genome in brood], children)
            alive |= judged(chosen, counts)
        aims = [(point.seconds, -point.score_db) for point in alive.values()]
        alive = {genome: alive[genome] for genome in selected(list(alive), aims, population)}
        volume = hypervolume_of_sites(list(everyone.values()))
        yield SiteGeneration(number=number, population=tuple(alive.values()), hypervolume=volume)
        number += 1


def _brood(
    rng: random.Random, parents: list[Genome], known: set[Genome], groups: Groups, fixed: frozenset[int], count: int
) -> list[Genome]:
    """Children that were never judged."""
    made: dict[Genome, None] = {}
    for _ in range(20 * count):
        if len(made) >= count:
            break
        mother, father = (rng.choice(parents) for _ in range(2))
        child = crossed(rng, mother, father) if rng.random() < 0.5 else mother
        child = mutated(rng, child, groups, fixed)
        if child not in known:
            made[child] = None
    return list(made)


def selected(items: Sequence[T], aims: Sequence[tuple[float, float]], count: int) -> list[T]:
    """The best by NSGA-II, both aims to be small: rank first, then how far apart they lie.

    Raises:
        MissingDependencyError: DEAP is not installed.
    """
    try:
        from deap import base, tools
    except ImportError as error:
        raise MissingDependencyError.for_extra("deap", "search", "the evolutionary search") from error

    class Fitness(base.Fitness):  # type: ignore[misc]
        weights = (-1.0, -1.0)

    class Individual:
        def __init__(self, place: int) -> None:
            self.place = place
            self.fitness = Fitness(aims[place])

    individuals = [Individual(place) for place in range(len(items))]
    if not individuals:
        return []
    return [items[each.place] for each in tools.selNSGA2(individuals, min(count, len(individuals)))]


def hypervolume_of_sites(points: Sequence[SitePoint]) -> float | None:
    """Area that the points dominate, of the share of seconds saved (0 to 1) by decibel above 15; by moocore."""
    try:
        import moocore
    except ImportError:
        return None
    table = [[1 / point.speedup, -point.score_db] for point in points]
    return float(moocore.hypervolume(table, ref=[1.0, REFERENCE_DB])) if table else 0.0
