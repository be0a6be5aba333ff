"""Children of candidates of calls and sites: what evolution makes of two, and of one."""

import random
from collections.abc import Mapping
from typing import Any

from dit_accel.calibration.sites_genome import Genome, Groups
from dit_accel.passes.corrections import MAX_DEPTH

STRENGTHS = (0.0, 0.5, 1.0)
EXACT_CHANCE, EXACT_MOST = 0.2, 4  # of a child to have other exact ends, and evaluations at either
RIDGES_TRIED = (0.0, 1e-5, 1e-3, 1e-2, 1e-1)


def crossed(rng: random.Random, first: Genome, second: Genome) -> Genome:
    """A child of two: the early steps of one and the late ones of the other, or the groups of either."""
    genes = rng.choice((first, second))
    names = sorted({*first.rows, *second.rows})
    if rng.random() < 0.5 or not names:
        cut = rng.randrange(1, first.num_steps)
        computed = [s for s in first.computed if s < cut] + [s for s in second.computed if s >= cut]
        reused = {
            name: [s for s in first.rows.get(name, ()) if s < cut] + [s for s in second.rows.get(name, ()) if s >= cut]
            for name in names
        }
        halves = [s for s in first.conditional if s < cut] + [s for s in second.conditional if s >= cut]
        return genes.having(computed=computed, rows=reused, conditional=halves)
    reused = {name: list(rng.choice((first, second)).rows.get(name, ())) for name in names}
    return genes.having(computed=first.computed, rows=reused, conditional=first.conditional)


def mutated(
    rng: random.Random,
    genome: Genome,
    groups: Groups,
    fixed: frozenset[int],
    *,
    halves: bool = False,
    quantised: bool = False,
) -> Genome:
    """One or two changes: a computed evaluation moved, left out or put in; a group's row flipped; a gene changed.

    Args:
        rng: Of the random choices.
        genome: What is changed.
        groups: Of the denoiser.
        fixed: Evaluations that stay computed: the first one of every denoiser.
        halves: Whether the conditional branch alone may be computed.
        quantised: Whether evaluations may keep the weights as they were.
    """
    if quantised and rng.random() < EXACT_CHANCE:
        most = min(EXACT_MOST, genome.num_steps)
        return genome.having(exact=(rng.randrange(most + 1), rng.randrange(most + 1)))
    for _ in range(rng.choice((1, 1, 2))):
        what = rng.random()
        if what < 0.35:
            genome = _move(rng, genome, fixed)
        elif what < 0.8 and halves and rng.random() < 0.5:
            genome = _halve(rng, genome, fixed)
        elif what < 0.8:
            genome = _flip(rng, genome, groups)
        elif genome.reused and rng.random() < 0.5:
            genome = genome.having(strength=rng.choice(STRENGTHS), depth=rng.randrange(1, MAX_DEPTH + 1))
        else:
            genome = genome.having(ridge=rng.choice(RIDGES_TRIED))
    return genome


def _move(rng: random.Random, genome: Genome, fixed: frozenset[int]) -> Genome:
    chosen, rows = {*genome.computed, *fixed}, {name: {*at} for name, at in genome.reused}
    free = sorted(chosen - fixed - {0})
    what = rng.random()
    if what < 0.6 and free:
        old = rng.choice(free)
        new = old + rng.choice((-2, -1, -1, 1, 1, 2))
        if 0 < new < genome.num_steps and new not in chosen:
            chosen.remove(old)
            chosen.add(new)
            for at in rows.values():  # what was reused goes along
                if old in at:
                    at.add(new)
    elif what < 0.8 and free:
        chosen.remove(rng.choice(free))
    else:
        chosen.add(rng.randrange(1, genome.num_steps))
    return _with_steps(genome, chosen, rows)


def _halve(rng: random.Random, genome: Genome, fixed: frozenset[int]) -> Genome:
    """A whole evaluation becomes a half, an answered one does, or a half becomes either; reuse of sites gives way."""
    step = rng.randrange(1, genome.num_steps)
    if step in fixed:
        return genome
    computed, halves = {*genome.computed} - {step}, {*genome.conditional} - {step}
    if step not in genome.conditional:
        halves.add(step)
    elif rng.random() < 0.5:
        computed.add(step)
    return genome.having(computed=computed, rows={}, conditional=halves)


def _flip(rng: random.Random, genome: Genome, groups: Groups) -> Genome:
    rows = {name: {*at} for name, at in genome.reused}
    names = sorted(groups)
    later = [step for step in genome.computed if step]
    if not later:
        return genome
    step, name = rng.choice(later), rng.choice(names)
    what = rng.random()
    if what < 0.6:
        rows[name] = rows.get(name, set()) ^ {step}
    elif what < 0.8:  # one group does as another one does
        rows[name] = set(rows.get(rng.choice(names), set()))
    else:  # all leaf groups at one step
        reuse = rng.random() < 0.5
        for each in (each for each in names if "." in each):
            rows[each] = rows.get(each, set()) | {step} if reuse else rows.get(each, set()) - {step}
    return _with_steps(genome, genome.computed, rows)


def _with_steps(genome: Genome, computed: Any, rows: Mapping[str, Any]) -> Genome:
    """Other steps, with the genes of a genome."""
    return genome.having(computed=computed, rows=rows)
