"""What a schedule means, by brute force on symbols: knows nothing of liveness, of modules, or of how lowering works.

A value is a number that stands for (site, step, the values it was computed from). Two runs agree exactly when the
model's output is the same number at every step.
"""

from collections.abc import Collection, Iterator, Mapping

from dit_accel.schedules.graph import SiteGraph
from dit_accel.schedules.lowering import COMPUTE, REUSE, SKIP, STORE, Program
from dit_accel.schedules.schedule import Schedule

Node = tuple[int, str]  # a site computed, or recalled from several kept values, at a step


class Symbols:
    """Equal descriptions get equal numbers."""

    def __init__(self) -> None:
        self.numbers: dict[object, int] = {}

    def __call__(self, *description: object) -> int:
        return self.numbers.setdefault(description, len(self.numbers))


def children(graph: SiteGraph, site: str | None) -> list[str]:
    return [other.id for other in graph if other.parent == site]


def inputs(graph: SiteGraph, site: str) -> list[str]:
    """Whose outputs a site reads: children that name no reader, and whoever names it."""
    native = [child for child in children(graph, site) if not graph.sites[graph.index[child]].feeds]
    return native + [other.id for other in graph if site in other.feeds]


def recalled(values: tuple[int, ...], step: int, symbols: Symbols) -> int:
    """A site's answer from its kept values, newest first: the value itself when it keeps one."""
    return values[0] if len(values) == 1 else symbols("recall", step, values)


def reference(
    graph: SiteGraph,
    schedule: Schedule,
    start: int,
    symbols: Symbols,
    depth: Mapping[str, int] | None = None,
    absent: Collection[int] = (),
) -> list[int]:
    """The model's output at each step that runs, when every reuse is answered from the last computed values."""
    kept: dict[str, tuple[int, ...]] = {}
    outputs = []
    last = start - 1
    for step in range(start, schedule.num_steps):
        if step in absent:
            continue
        since = range(last + 1, step + 1)
        last = step
        now: dict[str, int] = {}

        def visit(site: str, step: int = step, since: range = since, now: dict[str, int] = now) -> None:
            auxiliary = graph.sites[graph.index[site]].auxiliary
            if not auxiliary and site in kept and not any(schedule.recomputes(s, site) for s in since):
                now[site] = recalled(kept[site], step, symbols)
                return
            for child in children(graph, site):
                visit(child)
            now[site] = symbols(site, step, tuple(now[other] for other in inputs(graph, site)))
            kept[site] = (now[site], *kept.get(site, ()))[: (depth or {}).get(site, 1)]

        root = graph.sites[0].id
        visit(root)
        outputs.append(now[root])
    return outputs


class Execution:
    """Runs a program as wrapped modules would, and fails on any read of what is not there."""

    def __init__(
        self, graph: SiteGraph, program: Program, symbols: Symbols, depth: Mapping[str, int] | None = None
    ) -> None:
        self.graph = graph
        self.depth = depth or {}
        self.program = program
        self.symbols = symbols
        self.slots: dict[str, list[tuple[int, Node]]] = {}  # kept values, newest first, and where they were computed
        self.outputs: list[int] = []
        self.held: list[set[str]] = []  # what is kept after each step
        self.reads: dict[Node, list[Node]] = {}  # what each computed node was computed from
        self.roots: list[Node] = []
        self.answered: set[Node] = set()  # nodes that ran, or were answered from a slot
        for step in range(program.start, program.start + len(program.rows)):
            if step not in program.absent:
                self._step(step)
            else:
                self.held.append(set(self.slots))

    def _step(self, step: int) -> None:
        row = self.program.row(step)
        now: dict[str, tuple[int, Node] | None] = {}
        for site in self._call(self.graph.sites[0].id, step, row.actions, now):
            raise AssertionError(f"step {step}: {site} ran twice")
        root = now[self.graph.sites[0].id]
        assert root is not None, f"step {step}: the model's output is missing"
        self.outputs.append(root[0])
        self.roots.append(root[1])
        for position in row.frees:
            site = self.graph.sites[position].id
            assert site in self.slots, f"step {step}: {site} is freed but not kept"
            del self.slots[site]
        self.held.append(set(self.slots))

    def _call(
        self, site: str, step: int, actions: tuple[str, ...], now: dict[str, tuple[int, Node] | None]
    ) -> Iterator[str]:
        if site in now:
            yield site
        action = actions[self.graph.index[site]]
        if action == SKIP:
            now[site] = None
            return
        if action == REUSE:
            assert site in self.slots, f"step {step}: {site} is reused but not kept"
            values = self.slots[site]
            node = (step, site)
            if len(values) == 1:
                now[site] = values[0]
                return
            self.reads[node] = [where for _, where in values]
            now[site] = (recalled(tuple(number for number, _ in values), step, self.symbols), node)
            return
        assert action in (COMPUTE, STORE)
        for child in children(self.graph, site):
            yield from self._call(child, step, actions, now)
        read = []
        for other in inputs(self.graph, site):
            value = now[other]
            assert value is not None, f"step {step}: {site} reads {other}, which was skipped"
            read.append(value)
        node = (step, site)
        self.reads[node] = [where for _, where in read]
        now[site] = (self.symbols(site, step, tuple(number for number, _ in read)), node)
        if action == STORE:
            older = self.slots.get(site, [])
            self.slots[site] = [now[site], *older][: self.depth.get(site, 1)]  # type: ignore[list-item]

    def needed(self) -> set[Node]:
        """Every computation that some output depends on, and the parents inside of which those must run."""
        todo = list(self.roots)
        found: set[Node] = set()
        while todo:
            node = todo.pop()
            if node in found:
                continue
            found.add(node)
            step, site = node
            parent = self.graph.sites[self.graph.index[site]].parent
            todo += self.reads[node] + ([] if parent is None else [(step, parent)])
        return found
