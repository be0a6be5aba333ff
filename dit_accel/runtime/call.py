"""What a pass may know of a run and of one denoiser call, and what it may put in the way of one."""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from dit_accel.families.tokens import TokenGrid
from dit_accel.plan.conditions import Conditions
from dit_accel.runtime.left_out import LeftOut
from dit_accel.runtime.trees import Tree
from dit_accel.schedules.lowering import Row, RowSet

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of one denoiser, as it is known at its first call.

    Attributes:
        number: Counts the runs of the pipeline; a second denoiser that takes over has the same one.
        num_steps: Denoiser evaluations that the scheduler plans for each guidance branch.
        scheduler: The one that drives the run.
        grid: The token grid of the call; ``None`` where it could not be told.
        conditions: What plans are compared with.
    """

    number: int
    num_steps: int
    scheduler: Any
    grid: TokenGrid | None
    conditions: Conditions

    @cached_property
    def timesteps(self) -> tuple[float, ...]:
        """The scheduler's timesteps, read once a run and only if a pass asks; waits for the device then."""
        return _numbers(getattr(self.scheduler, "timesteps", None))

    @cached_property
    def sigmas(self) -> tuple[float, ...]:
        """The scheduler's noise levels, empty where it has none; read as ``timesteps`` are."""
        return _numbers(getattr(self.scheduler, "sigmas", None))


@dataclass(slots=True, kw_only=True)
class Call:
    """One denoiser call.

    Attributes:
        run: The run it belongs to.
        step: Which denoiser evaluation of this guidance branch, counted from 0.
        branch: Key of the guidance branch: the name that the pipeline gives it, else a number.
        args: Positional arguments of the denoiser; an :data:`Around` may replace them.
        kwargs: Named ones.
        row: What each site does in it; chosen by the row source.
        state: What the row source keeps for this branch, from one call of a trajectory to the next.
        begins: Whether a trajectory of the branch begins with this call: nothing from before may be used.
    """

    run: Run
    step: int
    branch: Hashable
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    row: Row
    state: Any = None
    begins: bool = False


Inner = Callable[[Call], Any]
Around = Callable[[Call, Inner], Any]
"""Wraps a whole denoiser call: change ``call.args``, call ``inner(call)``, or answer without it."""

Answers = Callable[[Run, Hashable], frozenset[int]]
"""The steps of a run at which an :data:`Around` answers a guidance branch without the denoiser."""


class RowSource(Protocol):
    """Decides what each site does in each call. A runtime has one."""

    def rows(self, run: Run, start: int, absent: frozenset[int], without: frozenset[str]) -> RowSet:
        """All rows that may be chosen from step ``start`` on: what is wrapped, and what a compiler builds.

        Args:
            run: The run.
            start: First step of the trajectory.
            absent: Steps at which the denoiser is not called, see :data:`Answers`.
            without: Sites that cannot be kept, or that this guidance branch does not call; they compute.
        """
        ...

    def begin(self, call: Call, rows: RowSet) -> Any:
        """A trajectory of a branch begins with this call; what is returned becomes ``call.state`` from now on."""
        ...

    def choose(self, call: Call) -> Row:
        """The row of this call, from Python numbers, outside every graph."""
        ...


class Keeper(Protocol):
    """How the kept values of a site answer for it; without one the last value is returned as it is.

    It holds no values: they lie in the track of the guidance branch, so that one keeper serves every branch.

    Attributes:
        depth: How many values it reads at most.
    """

    depth: int

    def numbers(self, call: Call, steps: tuple[int, ...]) -> "tuple[torch.Tensor, ...]":
        """The tensors of this step, outside every graph: a compiled row takes them as inputs.

        Args:
            call: The call that the site is to be answered in.
            steps: At which steps the values were stored, newest first; at least one, at most ``depth``.
        """
        ...

    def recall(self, values: tuple[Tree, ...], numbers: "tuple[torch.Tensor, ...]") -> Tree:
        """The answer, from ``depth`` values, newest first; the oldest stands in for those that are not there yet.

        Runs inside the graph of a compiled row.
        """
        ...


@dataclass(slots=True, kw_only=True)
class Frame:
    """What the wrappers of one denoiser see of the call that is running; refilled for each.

    Attributes:
        actions: What each site does, in the graph's order.
        slots: Kept value of each site; with a keeper the values, newest first.
        keepers: The keeper of each site, if it has one.
        numbers: What keepers gave for this step.
        hollows: Zero stand-ins of sites that may be skipped.
        versions: Modification counters of kept tensors when they were stored.
        left_out: Takes note of sites that turn out not to fit.
        clones: Sites whose kept values someone modifies in place, so that copies are kept; in inference mode all.
        variant: Of the row, for passes that wrap modules of their own.
        state: ``call.state``.
        entered: The residual streams as they entered the span of blocks that is being computed.
        counting: Whether wrappers count: not in compiled rows, which do exactly what their row says.
        computed: Sites computed in this run.
        reused: Sites answered from kept values in this run.
        called: Which sites were called at all.
    """

    actions: tuple[str, ...]
    slots: list[Tree]
    keepers: list[Keeper | None]
    numbers: "list[tuple[torch.Tensor, ...]]"
    hollows: list[Tree]
    left_out: LeftOut
    versions: dict[int, tuple[int, ...]] = field(default_factory=dict)
    clones: list[bool] = field(default_factory=list)
    variant: Hashable = None
    state: Any = None
    entered: "list[torch.Tensor]" = field(default_factory=list)
    counting: bool = True
    computed: int = 0
    reused: int = 0
    called: list[bool] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a pass says that it does to a denoiser, and what it did in the last run.

    Attributes:
        what: What the shares count, as a table's heading: ``"module calls saved"``, ``"weight bytes saved"``.
        planned_frac: Planned share, in [0, 1].
        actual_frac: Share of the last run; ``None``: not counted (compiled rows do what is planned), or no run yet.
        total: How many of what the shares are of, to weigh denoisers against each other.
        shortfall: In words, what was planned and did not happen, and why; ``None``: all of it happened.
        kept_bytes: Most memory that the pass held at once from one call to the next, kept values of sites not counted.
    """

    what: str
    planned_frac: float
    actual_frac: float | None = None
    total: float = 1.0
    shortfall: str | None = None
    kept_bytes: int = 0


def _numbers(values: Any) -> tuple[float, ...]:
    if values is None:
        return ()
    flat: Iterable[Any] = values.tolist() if hasattr(values, "tolist") else values
    return tuple(float(value) for value in flat)
