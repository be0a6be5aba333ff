"""Row sources that need no look at the call: everything computed, or a schedule."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from dit_accel.runtime.call import Call, Run
from dit_accel.schedules.graph import SiteGraph
from dit_accel.schedules.lowering import Program, Row, RowSet, compute_everything, lower, rows_of
from dit_accel.schedules.schedule import Schedule

ScheduleMaker = Callable[[int], Schedule]
"""From the number of denoiser evaluations of a run to its schedule."""


class ComputeEverything:
    """What happens where no pass decides.

    Args:
        graph: The sites.
    """

    def __init__(self, graph: SiteGraph) -> None:
        self._rows = rows_of(graph, (compute_everything(graph),))

    def rows(self, run: Run, start: int, absent: frozenset[int], without: frozenset[str]) -> RowSet:
        """One row."""
        return self._rows

    def begin(self, call: Call, rows: RowSet) -> None:
        """Nothing is remembered."""

    def choose(self, call: Call) -> Row:
        """It."""
        return self._rows.rows[0]


class ScheduledRows:
    """Follows a schedule.

    Args:
        graph: The sites.
        make: Gives the schedule of a run.
        depths: Gives the number of kept values that each site reads, by its id; asked when a run needs them, for a
            later pass may have given a site a keeper.
    """

    def __init__(self, graph: SiteGraph, make: ScheduleMaker, depths: Callable[[], Mapping[str, int]]) -> None:
        self.graph = graph
        self.make = make
        self.depths = depths
        self._programs: dict[tuple[int, int, frozenset[int], frozenset[str]], Program] = {}

    def program(
        self,
        num_steps: int,
        start: int = 0,
        absent: frozenset[int] = frozenset(),
        without: frozenset[str] = frozenset(),
    ) -> Program:
        """The program of a run of ``num_steps`` from ``start`` on; see :class:`~dit_accel.runtime.call.RowSource`."""
        key = (num_steps, start, absent, without)
        if key not in self._programs:
            schedule = self.make(num_steps)
            kept = {site: bits for site, bits in schedule.recompute.items() if site not in without}
            self._programs[key] = lower(
                Schedule(num_steps, kept), _read_by_all(self.graph, without), start, depth=self.depths(), absent=absent
            )
        return self._programs[key]

    def rows(self, run: Run, start: int, absent: frozenset[int], without: frozenset[str]) -> Program:
        """One row a step."""
        return self.program(run.num_steps, start, absent, without)

    def begin(self, call: Call, rows: RowSet) -> RowSet:
        """The program is what is remembered of a branch."""
        return rows

    def choose(self, call: Call) -> Row:
        """The row of this step."""
        program: Program = call.state
        return program.row(call.step)


def _read_by_all(graph: SiteGraph, sites: frozenset[str]) -> SiteGraph:
    """The graph without the readers of these sites, so that none is skipped because they are reused."""
    if not sites:
        return graph
    return SiteGraph(tuple(replace(site, feeds=()) if site.id in sites else site for site in graph))
