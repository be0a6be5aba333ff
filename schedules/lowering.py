"""From a schedule to what each module does at each step: liveness, dropped computations, and when to free."""

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from dit_accel.schedules.graph import SiteGraph
from dit_accel.schedules.schedule import Schedule

# What a wrapped module does at one step. Plain strings: a compiler guards on them as constants.
COMPUTE = "compute"  # run, keep nothing
STORE = "store"  # run and keep the output
REUSE = "reuse"  # return the kept output
SKIP = "skip"  # nobody reads the output: return a placeholder, run nothing


@dataclass(frozen=True)
class Row:
    """What every site does in one call.

    Attributes:
        actions: One for each site of the graph, in the graph's order. Equal rows share one tuple.
        frees: Positions of the sites whose kept values are not read after this call.
        variant: Tells rows of equal actions apart where a pass wraps modules of its own; each has a graph of its own.
    """

    actions: tuple[str, ...]
    frees: tuple[int, ...] = ()
    variant: Hashable = None


@dataclass(frozen=True)
class RowSet:
    """All rows that may run: what must be wrapped, and what a compiler builds.

    Attributes:
        sites: Ids of all sites, in the graph's order.
        parents: Position of each site's parent.
        auxiliary: Positions of the sites that nobody schedules.
        rows: The rows.
    """

    sites: tuple[str, ...]
    parents: tuple[int | None, ...]
    auxiliary: frozenset[int]
    rows: tuple[Row, ...]

    @cached_property
    def distinct_actions(self) -> tuple[tuple[str, ...], ...]:
        """The different action rows in order of first use."""
        return tuple(dict.fromkeys(row.actions for row in self.rows))

    @cached_property
    def active(self) -> tuple[int, ...]:
        """Positions of the sites that ever do anything but compute while their parent runs: what must be wrapped."""
        return tuple(p for p in range(len(self.sites)) if any(self._acts(a, p) for a in self.distinct_actions))

    def _acts(self, actions: tuple[str, ...], position: int) -> bool:
        parent = self.parents[position]
        is_called = parent is None or actions[parent] in (COMPUTE, STORE)
        return is_called and actions[position] != COMPUTE

    @cached_property
    def skipped(self) -> frozenset[int]:
        """Positions of the sites that are skipped in some row."""
        return frozenset(p for p in self.active if any(a[p] == SKIP for a in self.distinct_actions))


@dataclass(frozen=True)
class Program(RowSet):
    """A schedule made ready to run from step ``start`` on: one row for each step from there to the last.

    Attributes:
        start: First step of the run; everything runs there.
        absent: Steps at which the denoiser is not called at all; their rows compute everything and keep nothing.
    """

    start: int = 0
    absent: frozenset[int] = frozenset()

    def row(self, step: int) -> Row:
        """The row of an absolute step index."""
        return self.rows[step - self.start]

    def planned(self, action: str) -> int:
        """How often ``action`` is planned, over all sites and steps."""
        return sum(row.actions.count(action) for row in self.rows)


def rows_of(graph: SiteGraph, rows: Iterable[Row]) -> RowSet:
    """The rows of a source that is no schedule."""
    return RowSet(tuple(site.id for site in graph), _parents(graph), _auxiliary(graph), tuple(rows))


def compute_everything(graph: SiteGraph, variant: Hashable = None) -> Row:
    """The row in which every site computes."""
    return Row((COMPUTE,) * len(graph), (), variant)


def lower(
    schedule: Schedule,
    graph: SiteGraph,
    start: int = 0,
    *,
    depth: Mapping[str, int] | None = None,
    absent: Collection[int] = (),
) -> Program:
    """Decide for every (step, site) whether it is computed, stored, reused or skipped.

    The rules, each a test:

    * A site is reused only if it was computed since ``start`` while its parent ran; else it is computed.
    * A computed output is kept only if a later step reads it, and freed after the last read. A site of depth d reads
      the d values that were computed last, so the last d computations before a reuse are kept.
    * A module is skipped when every declared reader of its output is reused or skipped at this step and no later step
      reads the value; auxiliary modules run exactly when one of their readers runs.
    * At an absent step nothing happens. What was to be recomputed there is recomputed at the next step that runs.

    None of this changes a single bit of the result: it only leaves out work whose output nobody reads.

    Args:
        schedule: T steps.
        graph: The sites of the model.
        start: First executed step (image-to-image starts mid-schedule; a run whose shape changed starts again).
        depth: How many kept values a reuse reads, by site id; 1 for those that are not named.
        absent: Steps at which the denoiser is not called, because a pass answers without it.

    Raises:
        ScheduleError: The schedule names sites the graph does not have.
        ValueError: ``start`` is not a step of the schedule.
    """
    schedule.check(graph)
    if not 0 <= start < schedule.num_steps:
        raise ValueError(f"start step {start} is outside a schedule of {schedule.num_steps} steps")
    gone = frozenset(absent)
    depths = [(depth or {}).get(site.id, 1) for site in graph]
    table = _candidates(schedule, graph, start, gone)
    actions, frees = _liveness(graph, table, depths)
    return _pack(graph, start, gone, actions, frees)


def _candidates(
    schedule: Schedule, graph: SiteGraph, start: int, absent: frozenset[int]
) -> list[list[bool | None] | None]:
    """Per step and site: computed (True), reused (False), or not reached because the parent is reused (None).

    The whole row is ``None`` for an absent step.
    """
    parents = _parents(graph)
    available = [False] * len(graph)
    due = [False] * len(graph)  # a recomputation that fell on an absent step
    table: list[list[bool | None] | None] = []
    for step in range(start, schedule.num_steps):
        recomputes = [schedule.recomputes(step, site.id) or due[p] for p, site in enumerate(graph)]
        if step in absent:
            due = recomputes
            table.append(None)
            continue
        row: list[bool | None] = []
        for position, site in enumerate(graph):
            parent = parents[position]
            if parent is not None and row[parent] is not True:
                row.append(None)
                continue
            compute = site.auxiliary or recomputes[position] or not available[position]
            available[position] = available[position] or compute
            row.append(compute)
        due = [False] * len(graph)
        table.append(row)
    return table


def _liveness(
    graph: SiteGraph, table: Sequence[list[bool | None] | None], depths: Sequence[int]
) -> tuple[list[list[str]], list[list[int]]]:
    """Walk the steps backwards, dropping what nobody reads; returns actions and frees per step."""
    walk = _Backwards(graph, depths)
    steps = [walk.step(row) for row in reversed(table)]
    return [actions for actions, _ in reversed(steps)], [frees for _, frees in reversed(steps)]


class _Backwards:
    """Liveness at the step that is looked at, given all later ones."""

    def __init__(self, graph: SiteGraph, depths: Sequence[int]) -> None:
        self.depths = depths
        self.readers = [[graph.index[reader] for reader in site.feeds] for site in graph]
        self.parents = _parents(graph)
        # How many of the values computed so far are read later.
        self.needed = [0] * len(graph)

    def step(self, row: list[bool | None] | None) -> tuple[list[str], list[int]]:
        """Actions and frees of one step; an absent one computes everything and keeps nothing."""
        if row is None:
            return [COMPUTE] * len(self.parents), []
        runs = self._drop_unread(row, self._must_run(row))
        return self._emit(row, runs)

    def _must_run(self, row: list[bool | None]) -> list[bool]:
        """Computed sites whose value is read later, and the parents of such: they run whoever reads them now."""
        kept = [count > 0 for count in self.needed]
        for position in reversed(range(len(row))):
            parent = self.parents[position]
            if kept[position] and row[position] and parent is not None:
                kept[parent] = True
        return kept

    def _drop_unread(self, row: list[bool | None], kept: list[bool]) -> list[bool]:
        runs = [bool(entry) for entry in row]
        changed = True
        while changed:
            changed = False
            for position in reversed(range(len(row))):
                parent = self.parents[position]
                orphaned = parent is not None and not runs[parent]
                if runs[position] and (orphaned or not (kept[position] or self._is_read(position, row, runs))):
                    runs[position] = False
                    changed = True
        return runs

    def _is_read(self, position: int, row: list[bool | None], runs: list[bool]) -> bool:
        parent = self.parents[position]
        if row[position] is None or (parent is not None and not runs[parent]):
            return False
        readers = self.readers[position]
        return not readers or any(runs[reader] for reader in readers)

    def _emit(self, row: list[bool | None], runs: list[bool]) -> tuple[list[str], list[int]]:
        actions: list[str] = []
        frees: list[int] = []
        for position in range(len(row)):
            if runs[position]:
                actions.append(STORE if self.needed[position] else COMPUTE)
                self.needed[position] = max(0, self.needed[position] - 1)
            elif row[position] is False and self._is_read(position, row, runs):
                actions.append(REUSE)
                if not self.needed[position]:
                    frees.append(position)
                self.needed[position] = max(self.needed[position], self.depths[position])
            else:
                actions.append(SKIP)
        return actions, frees


def _pack(
    graph: SiteGraph, start: int, absent: frozenset[int], actions: list[list[str]], frees: list[list[int]]
) -> Program:
    """Share equal rows."""
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}
    rows = []
    for step_actions, step_frees in zip(actions, frees, strict=True):
        key = tuple(step_actions)
        rows.append(Row(shared.setdefault(key, key), tuple(step_frees)))
    sites = tuple(site.id for site in graph)
    gone = frozenset(step for step in absent if step >= start)
    return Program(sites, _parents(graph), _auxiliary(graph), tuple(rows), start, gone)


def _auxiliary(graph: SiteGraph) -> frozenset[int]:
    return frozenset(position for position, site in enumerate(graph) if site.auxiliary)


def _parents(graph: SiteGraph) -> tuple[int | None, ...]:
    return tuple(None if site.parent is None else graph.index[site.parent] for site in graph)
