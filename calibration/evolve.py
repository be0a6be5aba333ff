"""Evolutionary search over which evaluations are computed: NSGA-II on saved evaluations against fidelity.

After ECAD (Aggarwal et al., arXiv 2506.15682), with three changes: the seeds are the plans of :mod:`.choose` and of
theory, a surrogate screens children before any real run, and every child's weights are fitted anew, so that what is
judged is the best that can be made of its steps.

Selection is by DEAP's NSGA-II (Deb et al. 2002). Whom to judge is settled before any of a generation is judged, so
that judging may be spread over many processes. Judgements are kept by the caller, and so is where the search stands; a
stopped one goes on from the end of its last generation, and finds the same children again.
"""

import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dit_accel.calibration.books import Standing, rng_of, text_of
from dit_accel.calibration.calls import Steps, at, cost_of, halves, joined, whole
from dit_accel.calibration.choose import Gaps
from dit_accel.calibration.front import Point
from dit_accel.errors import MissingDependencyError

JudgeAll = Callable[[Sequence[Steps]], Sequence[Point | None]]
"""Fits and judges sets of steps; ``None`` for one that cannot be judged."""

CHILDREN = 8  # judged in each generation
BROOD = 6  # made for each one that is judged


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One generation.

    Attributes:
        number: From 0 on.
        population: The survivors.
        hypervolume: Of everything judged, by share of saved evaluations and decibel; ``None``: moocore is missing.
        rng: State of the random numbers, as text.
    """

    number: int
    population: tuple[Point, ...]
    hypervolume: float | None
    rng: str


def evolve(
    seeds: Sequence[Steps],
    judge: JudgeAll,
    gaps: Gaps,
    *,
    population: int = 16,
    children: int = CHILDREN,
    seed: int = 0,
    standing: Standing | None = None,
    tried: Mapping[Steps, Point | None] | None = None,
    half_calls: bool = False,
) -> Iterator[Generation]:
    """Generation after generation, until nothing new is bred; the caller stops before.

    Args:
        seeds: The first population.
        judge: Fits and judges sets of steps.
        gaps: The surrogate that screens children.
        population: Survivors of a generation.
        children: Judged in each generation.
        seed: Of the random choices.
        standing: Go on from the end of this generation, which is the first that is told.
        tried: All that had been tried by then.
        half_calls: Whether the conditional guidance branch alone may be computed.

    Raises:
        MissingDependencyError: DEAP is not installed.
    """
    select = _selection()
    if standing is None:
        rng, number, everyone = random.Random(seed), 0, _judged(judge, list(dict.fromkeys(seeds)))
        alive = _alive(everyone, everyone)
    else:
        rng, number, everyone = rng_of(standing.rng), standing.generation, dict(tried or {})
        alive = _alive(everyone, standing.population)
    while True:
        points, all_points = tuple(alive.values()), [point for point in everyone.values() if point is not None]
        yield Generation(number=number, population=points, hypervolume=hypervolume(all_points), rng=text_of(rng))
        brood = _brood(rng, list(alive), everyone, gaps, children, half_calls) if alive else []
        if not brood:  # of few steps there are few sets, and all are judged
            return
        new = _judged(judge, brood)
        everyone |= new
        alive |= _alive(new, new)
        alive = {steps: alive[steps] for steps in select(alive, population)}
        number += 1


def _judged(judge: JudgeAll, batch: Sequence[Steps]) -> dict[Steps, Point | None]:
    return dict(zip(batch, judge(batch), strict=True))


def _alive(among: Mapping[Steps, Point | None], which: Collection[Steps]) -> dict[Steps, Point]:
    return {steps: point for steps in which if (point := among[steps]) is not None}


def _brood(
    rng: random.Random, parents: list[Steps], known: Collection[Steps], gaps: Gaps, count: int, half_calls: bool
) -> list[Steps]:
    """Children that were never judged, those that the surrogate likes best for what they cost."""
    made: dict[Steps, float] = {}
    for _ in range(50 * count):
        if len(made) >= BROOD * count:
            break
        first, second = (rng.choice(parents) for _ in range(2))
        child = mutated(rng, crossed(rng, first, second, gaps.steps) if rng.random() < 0.5 else first, gaps)
        if half_calls and rng.random() < 0.5:
            child = halved(rng, child, gaps)
        if child not in known and child not in made:
            made[child] = surrogate(gaps, child)
    best_of: dict[float, float] = {}
    for steps, error in made.items():
        best_of[cost_of(steps)] = min(error, best_of.get(cost_of(steps), error))
    ranked = sorted(made, key=lambda steps: (made[steps] / max(best_of[cost_of(steps)], 1e-30), steps))
    chosen: list[Steps] = []
    sizes: set[float] = set()
    for steps in ranked:  # one of each size first, so that the whole front goes forward
        if cost_of(steps) not in sizes and len(chosen) < count:
            chosen.append(steps)
            sizes.add(cost_of(steps))
    return [*chosen, *(steps for steps in ranked if steps not in chosen)][:count]


def crossed(rng: random.Random, first: Steps, second: Steps, num_steps: int) -> Steps:
    """The early steps of one parent and the late ones of the other."""
    cut = rng.randrange(1, num_steps)
    return tuple([name for name in first if at(name) < cut] + [name for name in second if at(name) >= cut])


def mutated(rng: random.Random, steps: Steps, gaps: Gaps) -> Steps:
    """One or two computed steps moved, one left out or put in; the first and every boundary stay, half calls too."""
    fixed = {0, *gaps.boundaries}
    chosen = set(whole(steps)) | fixed
    for _ in range(rng.choice((1, 1, 2))):
        free = sorted(chosen - fixed)
        what = rng.random()
        if what < 0.7 and free:
            old = rng.choice(free)
            new = old + rng.choice((-2, -1, -1, 1, 1, 2))
            if 0 < new < gaps.steps and new not in chosen:
                chosen.remove(old)
                chosen.add(new)
        elif what < 0.85 and free:
            chosen.remove(rng.choice(free))
        else:
            chosen.add(rng.randrange(1, gaps.steps))
    return joined(chosen, halves(steps))


def halved(rng: random.Random, steps: Steps, gaps: Gaps) -> Steps:
    """A whole call becomes two halves, or a half one comes or goes; or two of these."""
    full, half = set(whole(steps)), set(halves(steps))
    for _ in range(rng.choice((1, 2))):
        free, what = sorted(full - {0, *gaps.boundaries}), rng.random()
        if what < 0.4 and free:  # another half beside the one that is left, so that the cost is the same
            old = rng.choice(free)
            full.remove(old)
            half |= {old, rng.randrange(1, gaps.steps)}
        elif what < 0.7 and half:
            half.remove(rng.choice(sorted(half)))
        else:
            half.add(rng.randrange(1, gaps.steps))
    return joined(full, half - full)


def surrogate(gaps: Gaps, steps: Steps) -> float:
    """What the Gram matrix expects of a set of steps; of half calls half of what whole ones would spare."""
    if halves(steps):
        full = whole(steps)
        return (surrogate(gaps, full) + surrogate(gaps, tuple(sorted({*full, *halves(steps)})))) / 2
    cost = 0.0
    for place, step in enumerate(steps):
        following = steps[place + 1] if place + 1 < len(steps) else gaps.steps
        cost += float(gaps.costs(steps[: place + 1])[following])
        assert step < following
    return cost


def hypervolume(points: Any) -> float | None:
    """Area that the points dominate, of the share of evaluations saved (0 to 1) by decibel above 15; by moocore."""
    try:
        import moocore
    except ImportError:
        return None
    table = [[point.cost_frac, -point.score_db] for point in points]
    return float(moocore.hypervolume(table, ref=[1.0, -15.0])) if table else 0.0


def _selection() -> Callable[[dict[Steps, Point], int], list[Steps]]:
    try:
        from deap import base, tools
    except ImportError as error:
        raise MissingDependencyError.for_extra("deap", "search", "the evolutionary search") from error

    class Fitness(base.Fitness):  # type: ignore[misc]
        weights = (-1.0, 1.0)

    class Individual:
        def __init__(self, steps: Steps, point: Point) -> None:
            self.steps = steps
            self.fitness = Fitness((point.cost_frac, point.score_db))

    def select(alive: dict[Steps, Point], count: int) -> list[Steps]:
        individuals = [Individual(steps, point) for steps, point in alive.items()]
        return [individual.steps for individual in tools.selNSGA2(individuals, min(count, len(individuals)))]

    return select
