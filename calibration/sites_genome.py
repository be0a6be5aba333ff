"""What the search over calls and sites changes: which evaluations are computed, and which groups of sites run in them.

ECAD's genome (Aggarwal et al., arXiv 2506.15682) is a boolean for every step, block and component. Ours has one for
every step (computed, computed for the conditional guidance branch alone, or answered by the trajectory), one for every
step and group of sites, two genes that say how kept outputs answer, and one for how near to theory's the weights of
answers stay; of a quantised model two more say how many evaluations at either end keep the weights as they were. With
one site a group, no answered step and no correction it is ECAD's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dit_accel.schedules import GeneratorSpec, Schedule, ScheduleError, SiteGraph
from dit_accel.schedules.generators import LEAF_KINDS

Groups = Mapping[str, tuple[str, ...]]
"""Name to ids of the sites that are reused together."""

DEPTH_PARTS = 2  # early and late blocks are groups of their own
UNET_GROUPS = {"deep": GeneratorSpec("deepcache"), "encoder": GeneratorSpec("encoder_propagation", key_steps=[0])}


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
        exact: Of a quantised model: how many evaluations at the start and at the end keep the weights as they were.
    """

    computed: tuple[int, ...]
    num_steps: int
    reused: tuple[tuple[str, tuple[int, ...]], ...] = ()
    strength: float = 0.0
    depth: int = 1
    conditional: tuple[int, ...] = ()
    ridge: float = 0.0
    exact: tuple[int, int] = (0, 0)

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
        exact: Sequence[int] = (0, 0),
    ) -> "Genome":
        """Bring what was made to canonical form."""
        steps = tuple(sorted({0, *computed}))
        rows = {name: tuple(sorted({*at} & {*steps} - {0})) for name, at in (reused or {}).items()}
        kept = tuple(sorted((name, at) for name, at in rows.items() if at))
        corrects = bool(kept) and strength > 0
        halves = () if kept else tuple(sorted({*conditional} - {*steps}))
        return cls(
            computed=steps,
            num_steps=num_steps,
            reused=kept,
            strength=strength if corrects else 0.0,
            depth=depth if corrects else 1,
            conditional=halves,
            ridge=ridge if len(steps) < num_steps else 0.0,
            exact=_ends({*steps, *halves}, num_steps, *exact),
        )

    def having(self, **genes: Any) -> "Genome":
        """The same with some of its genes changed: ``computed``, ``rows`` and those of :meth:`of`."""
        old = {"computed": self.computed, "rows": self.rows, "conditional": self.conditional}
        given = {
            **old,
            "strength": self.strength,
            "depth": self.depth,
            "ridge": self.ridge,
            "exact": self.exact,
            **genes,
        }
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
            **({"exact": list(self.exact)} if any(self.exact) else {}),
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
            exact=data.get("exact", (0, 0)),
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


def _ends(active: set[int], num_steps: int, first: int, last: int) -> tuple[int, int]:
    """The least numbers at either end that hold the same of the evaluations that anything is computed at."""
    early = max((step + 1 for step in active if step < first), default=0)
    return early, max((num_steps - step for step in active if step >= num_steps - last), default=0)


def _text(steps: Sequence[int], num_steps: int) -> str:
    return "".join("1" if step in steps else "0" for step in range(num_steps))


def _steps(text: str) -> list[int]:
    return [step for step, bit in enumerate(text) if bit == "1"]
