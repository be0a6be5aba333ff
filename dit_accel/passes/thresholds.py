"""What TeaCache and FirstBlockCache share: blocks are kept as one, and skipped while a measured change is small."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch

from dit_accel.errors import ConfigError
from dit_accel.families.base import Layout
from dit_accel.families.targets import Target
from dit_accel.plan.config import PassConfig
from dit_accel.runtime.call import Call, Effect, Run
from dit_accel.runtime.denoiser import DenoiserRuntime
from dit_accel.runtime.spans import Span
from dit_accel.schedules.lowering import Row, RowSet, compute_everything, rows_of

STREAM = "hidden_states"  # the image's tokens, in every family
WHAT = "denoiser calls answered from kept blocks"


@dataclass(slots=True, kw_only=True)
class BranchState:
    """What a trajectory of one guidance branch remembers.

    Attributes:
        absent: Steps at which nothing is decided: the denoiser is not called, or its blocks cannot be kept.
        last: The last step at which it is.
        call: The one that is running, until its first block has settled whether blocks are skipped.
    """

    absent: frozenset[int]
    last: int
    call: Call | None = None


S = TypeVar("S", bound=BranchState)


class ThresholdRows(ABC, Generic[S]):
    """A row source of two rows: the blocks are computed and what they add is kept, or they are answered from that.

    Args:
        runtime: Of the denoiser.
        span: The blocks.
        threshold: Of the change that is measured.

    Attributes:
        nearest: The smallest change in this run for which blocks were computed that could have been skipped.
        blind: Whether nothing can be measured in this run; the user was told.
    """

    state: ClassVar[Callable[..., Any]]
    measured: ClassVar[str]

    def __init__(self, runtime: DenoiserRuntime, span: Span, threshold: float) -> None:
        self.runtime = runtime
        self.span = span
        self.threshold = threshold
        self.nearest: float | None = None
        self.blind = False
        parents = rows_of(runtime.graph, ()).parents
        self.computed = span.row(parents, reused=False)
        self.answered = span.row(parents, reused=True)
        self.plain = compute_everything(runtime.graph)  # of steps at which the denoiser is not called
        self.all_rows = rows_of(runtime.graph, (self.computed, self.answered, self.plain))
        self._no_rows = rows_of(runtime.graph, (self.plain,))
        self._sites = frozenset(runtime.graph.sites[position].id for position in span.positions)

    def rows(self, run: Run, start: int, absent: frozenset[int], without: frozenset[str]) -> RowSet:
        """The same whatever the run is; nothing is skipped where one of the blocks cannot be kept."""
        return self._no_rows if without & self._sites else self.all_rows

    def begin(self, call: Call, rows: RowSet) -> S:
        """Nothing is known of the branch yet."""
        steps = frozenset(range(call.run.num_steps))
        absent = self.runtime.absent(call.run, call.branch) if self.computed in rows.rows else steps
        state: S = type(self).state(absent=absent, last=max(steps - absent, default=0))
        return state

    def choose(self, call: Call) -> Row:
        """By the change that was measured, as the technique has it."""
        call.state.call = None
        return self.plain if self.blind or call.step in call.state.absent else self.decide(call, call.state)

    @abstractmethod
    def decide(self, call: Call, state: S) -> Row:
        """The row of a call that runs the denoiser, or the one to begin with if the first block is to settle it."""

    def unsettled(self) -> S | None:
        """The state of the call that is running, if its first block has to settle its row."""
        state: S | None = self.runtime.frame.state
        return None if state is None or state.call is None else state

    def skip(self, call: Call) -> bool:
        """Skip the blocks of the call that is running, if there is something to answer with."""
        if self.runtime.frame.slots[self.span.first] is None:
            return False
        self.runtime.switch(call, self.answered)
        return True

    def forget(self, run: Run) -> None:
        """A run begins."""
        self.nearest = None

    def note(self, change: float) -> None:
        """Blocks are computed because of this change."""
        if not math.isnan(change):
            self.nearest = change if self.nearest is None else min(self.nearest, change)


def check_threshold(name: str, threshold: object) -> None:
    """Refuse what is no threshold.

    Raises:
        ConfigError: It is no number, or negative.
    """
    if not isinstance(threshold, int | float) or isinstance(threshold, bool) or not threshold >= 0:
        raise ConfigError(f"'{name}': the threshold must be a number that is not negative, got {threshold!r}")


def block_positions(layout: Layout) -> tuple[int, ...]:
    """Positions of the sites that are whole blocks on the stream of the image's tokens, in execution order."""
    return tuple(
        position
        for position, site in enumerate(layout.sites)
        if site.info.kind == "block" and any(name == STREAM for _, name in site.streams)
    )


def no_stack(target: Target, *, apart: int) -> list[str]:
    """Why the blocks of a denoiser, but the first ``apart``, cannot be kept as one, if so."""
    layout, found = target.layout, block_positions(target.layout)
    if len(found) <= apart:
        return [
            f"it skips a stack of transformer blocks on a stream called '{STREAM}', of which this model has "
            f"{len(found) or 'none'}: use static_cache"
        ]
    strays = [stack.path for stack in target.family.stacks if STREAM not in stack.streams]
    if strays:
        return [f"the blocks in '{strays[0]}' are on no stream called '{STREAM}': use static_cache"]
    first = layout.sites[found[apart]]
    for position in found[apart:]:
        site = layout.sites[position]
        if {name for _, name in site.streams} != {name for _, name in first.streams}:
            return [
                f"native code joins the streams between '{first.info.id}' and '{site.info.id}', so that its blocks "
                "are no single stack: use static_cache"
            ]
    return []


def relative_change(before: torch.Tensor, now: torch.Tensor) -> float:
    """Relative L1 distance; waits for the device."""
    return float((now - before).abs().mean() / before.abs().mean().clamp_min(1e-12))


def effect_of_thresholds(runtime: DenoiserRuntime, config: PassConfig) -> Effect | None:
    """Share of the last run's calls whose blocks were skipped; what a run will skip, nobody knows before."""
    stats, rows = runtime.stats, runtime.source
    assert isinstance(rows, ThresholdRows)
    if not stats.calls:
        return None
    planned, actual = stats.executed.get(rows.answered.actions, 0), stats.actual_reuse
    return Effect(
        what=WHAT,
        planned_frac=planned / stats.calls,
        actual_frac=None if actual is None else actual / stats.calls,
        total=stats.calls,
        shortfall=_shortfall(runtime, rows, planned),
    )


def _shortfall(runtime: DenoiserRuntime, rows: ThresholdRows[Any], planned: int) -> str | None:
    stats = runtime.stats
    if stats.actual_reuse is not None and stats.actual_reuse < planned:
        return f"'{runtime.name}' answered {stats.actual_reuse} of {planned} calls that it was to answer"
    if planned or rows.blind or not rows.threshold or stats.answered == stats.calls:
        return None
    run = f"'{runtime.name}' skipped no blocks in this run of {stats.num_steps} steps"
    if rows.nearest is None:
        return f"{run} ({stats.reasons or 'too few steps'}); it was no faster than without the plan."
    return (
        f"{run}: {rows.measured} was never below the threshold {rows.threshold:g}, at the least {rows.nearest:.3g}; "
        "raise the threshold above that."
    )
