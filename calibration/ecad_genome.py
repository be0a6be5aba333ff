"""ECAD's genome and operators as its code has them (Aggarwal et al., arXiv 2506.15682): one boolean a step and module.

A genome is a row of T x sites booleans, step by step and site by site, true where the module is recomputed. Its code
runs pymoo's ``BitflipMutation(prob=0.05)``, in which 0.05 is the share of children that are mutated at all and each
bit of those flips with one chance in their number; a reader would take it for the share of bits. Both are arguments
here.
"""

import random
from collections.abc import Collection, Iterator, Sequence

from dit_accel.schedules import GeneratorSpec, Schedule, ScheduleError, SiteGraph
from dit_accel.schedules.generators import ATTENTION_KINDS, LEAF_KINDS

Bits = tuple[bool, ...]

POPULATION = 72
CROSSOVER_FRAC, CROSSOVER_POINTS = 0.9, 4
MUTATED_FRAC = 0.05


def sites_of(graph: SiteGraph) -> tuple[str, ...]:
    """The modules that a genome decides on: attentions, feed-forwards, and the projections of single blocks."""
    return tuple(site.id for site in graph.select(kinds=LEAF_KINDS))


def bits_of(schedule: Schedule, sites: Sequence[str]) -> Bits:
    """A schedule as a genome; step 0 is always recomputed."""
    return tuple(schedule.recomputes(step, site) for step in range(schedule.num_steps) for site in sites)


def schedule_of(bits: Bits, sites: Sequence[str]) -> Schedule:
    """The inverse of :func:`bits_of`."""
    width = len(sites)
    return Schedule(len(bits) // width, {site: bits[place::width] for place, site in enumerate(sites)})


def first_population(graph: SiteGraph, num_steps: int, count: int = POPULATION, seed: int = 0) -> list[Bits]:
    """Hand-made schedules like those that ECAD begins with, the uncached one first; random ones where they run out.

    FORA at several intervals, attention alone at several, T-GATE at gates and intervals, and one kind of module reused
    in evenly spaced blocks at steps around the middle.
    """
    sites = sites_of(graph)
    found: dict[Bits, None] = {(True,) * (num_steps * len(sites)): None}
    rng = random.Random(seed)
    for spec in _rules(graph, num_steps):
        try:
            found[bits_of(spec.build(graph, num_steps), sites)] = None
        except ScheduleError:
            continue  # this model has no such module
        if len(found) == count:
            break
    while len(found) < count:
        row = [rng.random() < 0.5 for _ in range(num_steps * len(sites))]
        found[canonical(tuple(row), len(sites))] = None
    return list(found)[:count]


def _rules(graph: SiteGraph, num_steps: int) -> Iterator[GeneratorSpec]:
    for n in (2, 3, 4, 5, 7, 10, 20):
        yield GeneratorSpec("every_n", n=n)
    attention = [kind for kind in ATTENTION_KINDS if kind in graph.kinds]
    for n in (2, 4, 5, 7, 10, 20):
        yield GeneratorSpec("every_n", n=n, kinds=attention)
    for share in (0.5, 0.6, 0.75, 0.9):
        for interval in (1, 3, 5, 7, 9, 11):
            yield GeneratorSpec("t_gate", gate=max(1, round(share * num_steps)), sp_interval=interval)
    kinds = [kind for kind in LEAF_KINDS if kind in graph.kinds]
    for blocks in (3, 9, 15, 21, 27):
        for reused in (3, 7, 11, 15, 19):
            for kind in kinds:
                share = -(-graph.num_blocks * blocks // 28)
                yield GeneratorSpec(
                    "evenly_spaced",
                    num_blocks=max(1, share),
                    num_reused=max(1, reused * num_steps // 20),
                    kinds=[kind],
                )


def canonical(bits: Bits, width: int) -> Bits:
    """Step 0 has nothing to reuse: its bits are set, so that what behaves alike is equal."""
    return (True,) * width + bits[width:]


def crossed(rng: random.Random, first: Bits, second: Bits, points: int = CROSSOVER_POINTS) -> tuple[Bits, Bits]:
    """Two children by crossover at several points."""
    cuts = sorted(rng.sample(range(1, len(first)), min(points, len(first) - 1)))
    one: list[bool] = []
    other: list[bool] = []
    swapped, start = False, 0
    for end in (*cuts, len(first)):
        a, b = (second, first) if swapped else (first, second)
        one += a[start:end]
        other += b[start:end]
        swapped, start = not swapped, end
    return tuple(one), tuple(other)


def mutated(
    rng: random.Random, bits: Bits, *, mutated_frac: float = MUTATED_FRAC, flipped_frac: float | None = None
) -> Bits:
    """A genome with some bits flipped, or as it was.

    Args:
        rng: Of the random choices.
        bits: The genome.
        mutated_frac: Share of genomes that are changed at all.
        flipped_frac: Share of the bits of those; ``None``: one in their number, at most half.
    """
    if rng.random() >= mutated_frac:
        return bits
    share = min(0.5, 1 / len(bits)) if flipped_frac is None else flipped_frac
    return tuple(not bit if rng.random() < share else bit for bit in bits)


def children_of(
    rng: random.Random,
    ranked: Sequence[Bits],
    known: Collection[Bits],
    count: int,
    width: int,
    mutated_frac: float,
    flipped_frac: float | None,
) -> list[Bits]:
    """As many as there are parents, those left out that were judged before; parents by binary tournament."""

    def parent() -> Bits:
        return ranked[min(rng.randrange(len(ranked)), rng.randrange(len(ranked)))]

    made: dict[Bits, None] = {}
    for _ in range(-(-count // 2)):
        pair = (parent(), parent())
        if rng.random() < CROSSOVER_FRAC:
            pair = crossed(rng, *pair)
        for bits in pair:
            child = canonical(mutated(rng, bits, mutated_frac=mutated_frac, flipped_frac=flipped_frac), width)
            if child not in known:
                made[child] = None
    return list(made)[:count]
