"""What the search over calls and sites changes: which evaluations are computed, and which groups of sites run in them.

ECAD's genome (Aggarwal et al., arXiv 2506.15682) is a boolean for every step, block and component. Ours has one for
every step (computed, computed for the conditional guidance branch alone, or answered by the trajectory), one for every
step and group of sites, two genes that say how kept outputs answer, and one for how near to theory's the weights of
answers stay. With one site a group, no answered step and no correction it is ECAD's.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dit_accel.passes.corrections import MAX_DEPTH
from dit_accel.schedules import GeneratorSpec, Schedule, ScheduleError, SiteGraph
from dit_accel.schedules.generators import LEAF_KINDS

Groups = Mapping[str, tuple[str, ...]]
"""Name to ids of the sites that are reused together."""

DEPTH_PARTS = 2  # early and late blocks are groups of their own
UNET_GROUPS = {"deep": GeneratorSpec("deepcache"), "encoder": GeneratorSpec("encoder_propagation", key_steps=[0])}
STRENGTHS = (0.0, 0.5, 1.0)
RIDGES_TRIED = (0.0, 1e-5, 1e-3, 1e-2, 1e-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Genome:
    """One candidate, in canonical form: what behaves alike is equal.

    Attributes:
        computed: The evaluations that are computed, in order; 0 is the first.
        num_steps: T.
        reused: For every group the computed evaluations at which it is reused; 0 never is.
        strength: Of the fitted corrections of reused outputs: 0 for none, 1 for all of it.
        depth: How many kept outputs a correction reads.
        conditional: Of the other evaluations those of which the conditional guidance branch alone is computed. None
            where sites are reused: what they keep is of both branches.
        ridge: Of the weights of answers toward theory's; 0: chosen for each by leaving prompts out.
    """

    computed: tuple[int, ...]
    num_steps: int
    reused: tuple[tuple[str, tuple[int, ...]], ...] = ()
    strength: float = 0.0
    depth: int = 1
    conditional: tuple[int, ...] = ()
    ridge: float = 0.0

    @classmethod
    def of(
        cls,
        computed: Sequence[int],
        num_steps: int,
        reused: Mapping[str, Sequence[int]] | None = None,
        *,
        strength: float = 0.0,
        depth: int = 1,
        conditional: Sequence[int] = (),
        ridge: float = 0.0,
    ) -> "Genome":
        """Bring what was made to canonical form."""
        steps = tuple(sorted({0, *computed}))
        rows = {name: tuple(sorted({*at} & {*steps} - {0})) for name, at in (reused or {}).items()}
        kept = tuple(sorted((name, at) for name, at in rows.items() if at))
        corrects = bool(kept) and strength > 0
        return cls(
            computed=steps,
            num_steps=num_steps,
            reused=kept,
            strength=strength if corrects else 0.0,
            depth=depth if corrects else 1,
            conditional=() if kept else tuple(sorted({*conditional} - {*steps})),
            ridge=ridge if len(steps) < num_steps else 0.0,
        )

    def having(self, **genes: Any) -> "Genome":
        """The same with some of its genes changed: ``computed``, ``rows`` and those of :meth:`of`."""
        old = {"computed": self.computed, "rows": self.rows, "conditional": self.conditional}
        given = {**old, "strength": self.strength, "depth": self.depth, "ridge": self.ridge, **genes}
        return Genome.of(given.pop("computed"), self.num_steps, given.pop("rows"), **given)

    @property
    def rows(self) -> dict[str, tuple[int, ...]]:
        """``reused`` by name."""
        return dict(self.reused)

    @property
    def answered(self) -> frozenset[int]:
        """The evaluations that the trajectory answers, or one guidance branch of them."""
        return frozenset(range(self.num_steps)) - frozenset(self.computed)

    def schedule(self, groups: Groups) -> Schedule:
        """What the sites do; at an answered evaluation nothing is due."""
        found: dict[str, list[bool]] = {}
        for name, at in self.reused:
            for site in groups[name]:
                row = found.setdefault(site, [step in self.computed for step in range(self.num_steps)])
                for step in at:
                    row[step] = False
        return Schedule(self.num_steps, found)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data: ``1`` at the evaluations that are computed, and of a group at those where it is reused."""
        return {
            "computed": _text(self.computed, self.num_steps),
            "reused": {name: _text(at, self.num_steps) for name, at in self.reused},
            "strength": self.strength,
            "depth": self.depth,
            **({"conditional": _text(self.conditional, self.num_steps)} if self.conditional else {}),
            **({"ridge": self.ridge} if self.ridge else {}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Genome":
        """Read what :meth:`to_dict` wrote."""
        reused = {name: _steps(text) for name, text in data["reused"].items()}
        return cls.of(
            _steps(data["computed"]),
            len(data["computed"]),
            reused,
            strength=data["strength"],
            depth=data["depth"],
            conditional=_steps(data.get("conditional", "")),
            ridge=data.get("ridge", 0.0),
        )


def groups_of(graph: SiteGraph, parts: int = DEPTH_PARTS) -> dict[str, tuple[str, ...]]:
    """The groups of a denoiser: each kind of leaf in early and in late blocks, and what whole-block methods reuse.

    Args:
        graph: Its sites.
        parts: How many groups the depth is divided into.
    """
    found: dict[str, list[str]] = {}
    for site in graph.select(kinds=LEAF_KINDS):
        part = 0 if site.block is None else site.block * parts // max(1, graph.num_blocks)
        found.setdefault(f"{site.kind}.{part}", []).append(site.id)
    if graph.select(kinds=("up_block",)):
        for name, rule in UNET_GROUPS.items():
            found[name] = list(rule.build(graph, 2).recompute)
    elif graph.select(kinds=("block",)) and graph.num_blocks > 3:
        found["middle"] = list(GeneratorSpec("block_range", n=2).build(graph, 2).recompute)
    return {name: tuple(sites) for name, sites in found.items() if sites}


def genome_of(schedule: Schedule, groups: Groups, computed: Sequence[int] | None = None, **genes: Any) -> Genome:
    """A schedule in terms of groups.

    Args:
        schedule: What sites do at all evaluations.
        groups: Of the denoiser.
        computed: Evaluations that are computed; ``None``: all.
        genes: ``strength`` and ``depth``.

    Raises:
        ScheduleError: Some sites of a group do what others do not, so that no genome says it.
    """
    steps = schedule.num_steps
    rows = {site: tuple(step for step, bit in enumerate(row) if not bit) for site, row in schedule.recompute.items()}
    reused = {}
    for name, sites in groups.items():
        alike = {rows.get(site, ()) for site in sites}
        if len(alike) == 1 and (at := alike.pop()):
            reused[name] = at
    # Of groups that contain each other one is enough.
    for name in list(reused):
        others = {site for other in reused if other != name for site in groups[other]}
        if {*groups[name]} <= others and "." not in name:
            del reused[name]
    said = {site for name in reused for site in groups[name]}
    if said != {*rows}:
        raise ScheduleError(f"{len({*rows} - said)} sites of the schedule do not do what the rest of their group does")
    return Genome.of(range(steps) if computed is None else computed, steps, reused, **genes)


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
    rng: random.Random, genome: Genome, groups: Groups, fixed: frozenset[int], *, halves: bool = False
) -> Genome:
    """One or two changes: a computed evaluation moved, left out or put in; a group's row flipped; a gene changed.

    Args:
        rng: Of the random choices.
        genome: What is changed.
        groups: Of the denoiser.
        fixed: Evaluations that stay computed: the first one of every denoiser.
        halves: Whether the conditional branch alone may be computed.
    """
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


def _text(steps: Sequence[int], num_steps: int) -> str:
    return "".join("1" if step in steps else "0" for step in range(num_steps))


def _steps(text: str) -> list[int]:
    return [step for step, bit in enumerate(text) if bit == "1"]
