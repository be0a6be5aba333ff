"""From a schedule to what each module does at each step: liveness, dropped computations, and when to free."""

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
    """One step.

    Attributes:
        actions: What each site of the graph does, in the graph's order. Equal rows share one tuple.
        frees: Positions of the sites whose kept value is not read after this step.
    """

    actions: tuple[str, ...]
    frees: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """A schedule made ready to run from step ``start`` on.

    Attributes:
        sites: Ids of all sites, in the graph's order.
        start: First step of the run; everything runs there.
        rows: One per step from ``start`` to the last.
        parents: Position of each site's parent.
    """

    sites: tuple[str, ...]
    start: int
    rows: tuple[Row, ...]
    parents: tuple[int | None, ...]

    def row(self, step: int) -> Row:
        """The row of an absolute step index."""
        return self.rows[step - self.start]

    @cached_property
    def distinct_actions(self) -> tuple[tuple[str, ...], ...]:
        """The different action rows in order of first use: what a compiler has to build."""
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
        """Positions of the sites that are skipped at some step."""
        return frozenset(p for p in self.active if any(a[p] == SKIP for a in self.distinct_actions))

    def planned(self, action: str) -> int:
        """How often ``action`` is planned, over all sites and steps."""
        return sum(row.actions.count(action) for row in self.rows)


def lower(schedule: Schedule, graph: SiteGraph, start: int = 0) -> Program:
    """Decide for every (step, site) whether it is computed, stored, reused or skipped.

    The rules, each a test:

    * A site is reused only if it was computed since ``start`` while its parent ran; else it is computed.
    * A computed output is kept only if a later step reads it before the next computation, and freed after that read.
    * A module is skipped when every declared reader of its output is reused or skipped at this step and no later step
      reads the value; auxiliary modules run exactly when one of their readers runs.

    None of this changes a single bit of the result: it only leaves out work whose output nobody reads.

    Args:
        schedule: T steps.
        graph: The sites of the model.
        start: First executed step (image-to-image starts mid-schedule; a run whose shape changed starts again).

    Raises:
        ScheduleError: The schedule names sites the graph does not have.
        ValueError: ``start`` is not a step of the schedule.
    """
    schedule.check(graph)
    if not 0 <= start < schedule.num_steps:
        raise ValueError(f"start step {start} is outside a schedule of {schedule.num_steps} steps")
    wanted = _candidates(schedule, graph, start)
    return _pack(graph, start, *_liveness(graph, wanted))


def _candidates(schedule: Schedule, graph: SiteGraph, start: int) -> list[list[bool | None]]:
    """Per step and site: computed (True), reused (False), or not reached because the parent is reused (None)."""
    parents = [None if site.parent is None else graph.index[site.parent] for site in graph]
    available = [False] * len(graph)
    table: list[list[bool | None]] = []
    for step in range(start, schedule.num_steps):
        row: list[bool | None] = []
        for position, site in enumerate(graph):
            parent = parents[position]
            if parent is not None and row[parent] is not True:
                row.append(None)
                continue
            compute = site.auxiliary or schedule.recomputes(step, site.id) or not available[position]
            available[position] = available[position] or compute
            row.append(compute)
        table.append(row)
    return table


def _liveness(graph: SiteGraph, wanted: list[list[bool | None]]) -> tuple[list[list[str]], list[list[int]]]:
    """Walk the steps backwards, dropping what nobody reads; returns actions and frees per step."""
    readers = [[graph.index[reader] for reader in site.feeds] for site in graph]
    parents = [None if site.parent is None else graph.index[site.parent] for site in graph]
    everyone = range(len(graph))
    carried = [False] * len(graph)  # a later step reads the value that this or an earlier step computes
    actions: list[list[str]] = []
    frees: list[list[int]] = []
    for row in reversed(wanted):
        runs = [bool(entry) for entry in row]
        holds_carried = list(carried)  # a child's value is needed later, so its parent must run
        for position in reversed(everyone):
            parent = parents[position]
            if holds_carried[position] and row[position] and parent is not None:
                holds_carried[parent] = True

        def is_read(position: int, runs: list[bool] = runs, row: list[bool | None] = row) -> bool:
            parent = parents[position]
            if row[position] is None or (parent is not None and not runs[parent]):
                return False
            return not readers[position] or any(runs[reader] for reader in readers[position])

        changed = True
        while changed:
            changed = False
            for position in reversed(everyone):
                parent = parents[position]
                if not runs[position]:
                    continue
                orphaned = parent is not None and not runs[parent]
                if orphaned or not (is_read(position) or holds_carried[position]):
                    runs[position] = False
                    changed = True
        step_actions: list[str] = []
        step_frees: list[int] = []
        for position in everyone:
            if runs[position]:
                step_actions.append(STORE if carried[position] else COMPUTE)
                carried[position] = False
            elif row[position] is False and is_read(position):
                step_actions.append(REUSE)
                if not carried[position]:
                    step_frees.append(position)
                carried[position] = True
            else:
                step_actions.append(SKIP)
        actions.append(step_actions)
        frees.append(step_frees)
    return actions[::-1], frees[::-1]


def _pack(graph: SiteGraph, start: int, actions: list[list[str]], frees: list[list[int]]) -> Program:
    """Share equal rows."""
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}
    rows = []
    for step_actions, step_frees in zip(actions, frees, strict=True):
        key = tuple(step_actions)
        rows.append(Row(shared.setdefault(key, key), tuple(step_frees)))
    parents = tuple(None if site.parent is None else graph.index[site.parent] for site in graph)
    return Program(tuple(site.id for site in graph), start, tuple(rows), parents)
