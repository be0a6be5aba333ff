"""NSGA-II over calls and sites: a surrogate screens children, real runs with successive halving judge them.

Selection is DEAP's (Deb et al. 2002), the order of everything that of one random generator, judgements are kept by the
caller: searching again with all of them at hand gives the same populations at once, which is how a stopped search
goes on. Who is judged by how many prompts is settled before any of them is, so that a round may be judged in many
places at once.

Nothing that leads is lost on the way. The survivors of a generation are chosen from everything that all prompts have
judged, and no round of the halving drops a candidate that none of its round beats in both aims: by a few prompts a
difference of tenths of a decibel is luck.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dit_accel.calibration.sites_children import crossed, mutated
from dit_accel.calibration.sites_genome import Genome, Groups
from dit_accel.calibration.sites_judge import SitePoint
from dit_accel.calibration.sites_surrogate import Surrogate
from dit_accel.errors import MissingDependencyError

BROOD = 6  # children made for each one that is judged
REFERENCE_DB = -15.0  # of the hypervolume: nothing below 15 dB counts

JudgeAll = Callable[[Sequence[Genome], int], Sequence[SitePoint]]
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
    judge: JudgeAll,
    surrogate: Surrogate,
    seconds: Callable[[Genome], float],
    groups: Groups,
    counts: Sequence[int],
    *,
    fixed: frozenset[int],
    halves: bool = False,
    quantised: bool = False,
    population: int = 24,
    children: int = 12,
    seed: int = 0,
) -> Iterator[SiteGeneration]:
    """Generation after generation, until nothing new is bred; the caller stops before.

    Args:
        first: Judged by all prompts, whatever they are worth: rivals and our own solver's plans.
        more: Further seeds, which have to survive the halving.
        judge: Fits and judges genomes by so many prompts, in their order.
        surrogate: Guesses errors; taught by everything that was judged.
        seconds: Of a genome's run, by the table of site times.
        groups: Of sites.
        counts: Prompts of each rung, ascending; the last is all.
        fixed: Evaluations that stay computed.
        halves: Whether the conditional guidance branch alone may be computed.
        quantised: Whether evaluations may keep the weights as they were.
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
            points = dict(zip(left, judge(left, count), strict=True)) if left else {}
            tried.update(points)
            points = {genome: point for genome, point in points.items() if point.fault is None}
            if place + 1 == len(rungs):
                everyone.update(points)
                surrogate.learn(list(everyone), [point.error for point in everyone.values()])
                return points
            aims = [(point.seconds, -point.score_db) for point in points.values()]
            left = selected(list(points), aims, max(1, len(points) // 2, len(unbeaten(aims))))
        return {}

    judged(first, counts[-1:])
    judged([genome for genome in more if genome not in tried], counts)
    alive: dict[Genome, SitePoint] = {}
    number = 0
    while True:
        if number:
            parents = list(alive)
            brood = _brood(rng, parents, tried, groups, fixed, BROOD * children, halves, quantised) if parents else []
            if not brood:
                return
            chosen = selected(brood, [(seconds(genome), surrogate(genome)) for genome in brood], children)
            judged(chosen, counts)
        aims = [(point.seconds, -point.score_db) for point in everyone.values()]
        alive = {genome: everyone[genome] for genome in survivors(list(everyone), aims, population)}
        volume = hypervolume_of_sites(list(everyone.values()))
        yield SiteGeneration(number=number, population=tuple(alive.values()), hypervolume=volume)
        number += 1


def _brood(
    rng: random.Random,
    parents: list[Genome],
    known: set[Genome],
    groups: Groups,
    fixed: frozenset[int],
    count: int,
    halves: bool,
    quantised: bool,
) -> list[Genome]:
    """Children that were never judged."""
    made: dict[Genome, None] = {}
    for _ in range(20 * count):
        if len(made) >= count:
            break
        mother, father = (rng.choice(parents) for _ in range(2))
        child = crossed(rng, mother, father) if rng.random() < 0.5 else mother
        child = mutated(rng, child, groups, fixed, halves=halves, quantised=quantised)
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


def survivors(items: Sequence[T], aims: Sequence[tuple[float, float]], count: int) -> list[T]:
    """The whole front, one of those that are equal, and then the best of the rest; of too large a front its spread.

    NSGA-II alone may fill up with equals: a gene that changes nothing makes them.
    """
    first = {aims[place]: place for place in reversed(unbeaten(aims))}
    front = sorted(first.values())
    best = selected(front, [aims[place] for place in front], count)
    rest = [place for place in range(len(items)) if place not in first.values()]
    more = selected(rest, [aims[place] for place in rest], count - len(best))
    return [items[place] for place in (*best, *more)]


def unbeaten(aims: Sequence[tuple[float, float]]) -> list[int]:
    """Places of those that none is at least as good as in both aims and better in one; both to be small."""
    found = []
    for place, (a, b) in enumerate(aims):
        better = (c <= a and d <= b and (c, d) != (a, b) for c, d in aims)
        if not any(better):
            found.append(place)
    return found


def hypervolume_of_sites(points: Sequence[SitePoint]) -> float | None:
    """Area that the points dominate, of the share of seconds saved (0 to 1) by decibel above 15; by moocore."""
    try:
        import moocore
    except ImportError:
        return None
    table = [[1 / point.speedup, -point.score_db] for point in points]
    return float(moocore.hypervolume(table, ref=[1.0, REFERENCE_DB])) if table else 0.0
