"""Runs one denoiser by a schedule: which row applies now, whose kept values it may use, and what it really reused."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dit_accel.branches import Branches, CacheContext
from dit_accel.clock import Clock
from dit_accel.conditions import conditions_of_run
from dit_accel.errors import AccelerationWarning, PlanMismatchError
from dit_accel.families.base import Family, Layout
from dit_accel.ledger import PatchLedger
from dit_accel.left_out import LeftOut, is_stored
from dit_accel.plan import AccelerationPlan
from dit_accel.schedules.lowering import COMPUTE, REUSE, SKIP, STORE, Program, Row, lower
from dit_accel.schedules.schedule import Schedule
from dit_accel.sites import Gate, Tree, map_tree, versions
from dit_accel.stats import RunStats, Tally
from dit_accel.tracks import InputReader, Inputs, Track
from dit_accel.wrapping import Wrappers

# A pipeline calls its denoiser once per guidance branch and step; more calls than this without the scheduler
# stepping means that another scheduler drives the run.
MAX_BRANCHES = 8

Scheduler = Callable[[int], Schedule]
Runner = Callable[[tuple[str, ...], Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


class DenoiserRuntime:
    """The state machine of one accelerated denoiser.

    Every call is matched with a :class:`Track`: the kept values of one guidance branch. A track may be used only at
    the step that follows its last one and with inputs of the same shape; anything else (image-to-image starting late,
    guidance switched off or on half-way, a second denoiser taking over, a changed batch) starts a new track at the
    current step, which computes everything. That one rule makes all those cases exact.

    Args:
        name: Attribute of the pipeline that holds the denoiser, for messages.
        denoiser: The module whose ``forward`` pipelines call.
        family: Its family.
        layout: Its sites.
        clock: Shared by all denoisers of the pipeline.
        ledger: Records every patch.
        plan: Its conditions are compared with those of each run.
        strict: Turn warnings into :class:`PlanMismatchError`.
    """

    def __init__(
        self,
        name: str,
        denoiser: nn.Module,
        family: Family,
        layout: Layout,
        clock: Clock,
        ledger: PatchLedger,
        *,
        plan: AccelerationPlan,
        strict: bool,
    ) -> None:
        self.name = name
        self.denoiser = denoiser
        self.family = family
        self.layout = layout
        self.clock = clock
        self.ledger = ledger
        self.plan = plan
        self.strict = strict
        self.graph = layout.graph
        self.schedule_for: Scheduler | None = None
        self.runner: Runner | None = None
        self.correct: Callable[[int, int], list[tuple[torch.Tensor, torch.Tensor] | None]] | None = None
        self.stats = RunStats()
        self.counting = True
        self._exact_actions = (COMPUTE,) * len(self.graph)
        self._no_values: list[Tree] = [None] * len(self.graph)
        self.actions = self._exact_actions
        self.slots = self._no_values
        self.hollows = list(self._no_values)
        self.versions: dict[int, tuple[int, ...]] = {}
        self.corrections: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * len(self.graph)
        self.clones = [False] * len(self.graph)
        self._computed = 0
        self._reused = 0
        self._called = [False] * len(self.graph)
        self.left_out = LeftOut(denoiser, layout)
        self._auxiliary = frozenset(p for p, site in enumerate(self.graph) if site.auxiliary)
        self._branches = Branches(lambda reason: self.stats.restarted(reason))
        self._programs: dict[tuple[int, int], Program] = {}
        self._tallies: dict[tuple[int, int], Tally] = {}
        self._run = -1
        self._warned: set[str] = set()
        self._wrappers = Wrappers(self)
        self._inputs = InputReader(denoiser, family.conditioning)
        self.gate = Gate(denoiser, self)
        ledger.set(denoiser, "forward", self.gate)
        if hasattr(denoiser, "cache_context"):
            ledger.set(denoiser, "cache_context", CacheContext(denoiser, self._branches))
        clock.on_end.append(self._finish)

    # -- set-up ---------------------------------------------------------------------------------------------------

    def use(self, schedule_for: Scheduler) -> None:
        """Take a function of the step count to the schedule of a run."""
        self.schedule_for = schedule_for
        self._programs.clear()
        self._tallies.clear()

    def program(self, num_steps: int, start: int = 0) -> Program:
        """The program for a run of ``num_steps`` that starts computing at ``start``."""
        key = (num_steps, start)
        if key not in self._programs:
            assert self.schedule_for is not None
            schedule = self.left_out.without(self.schedule_for(num_steps))
            self._programs[key] = lower(schedule, self.left_out.read_by_all(self.graph), start)
        return self._programs[key]

    def wrap(self, program: Program) -> None:
        """Make sure that every site the program touches is wrapped, and wrapped where it now is."""
        self._wrappers.ensure(program)

    @property
    def num_wrapped(self) -> int:
        """How many modules are wrapped."""
        return len(self._wrappers)

    def release(self) -> None:
        """Forget everything that is kept; wrappers that others still hold on to then only compute."""
        self.schedule_for = None
        self._drop()
        if self._finish in self.clock.on_end:
            self.clock.on_end.remove(self._finish)

    # -- the hot path ---------------------------------------------------------------------------------------------

    def call(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One denoiser call."""
        step, num_steps = self.clock.position()
        if self.clock.run != self._run:
            self._begin_run(num_steps, self._inputs(args, kwargs))
        place = self._branches.count_call(self._run, step)
        if step >= num_steps or place >= MAX_BRANCHES:
            return self._exact(original, args, kwargs)
        try:
            return self._scheduled(original, args, kwargs, step, num_steps)
        except BaseException:
            self._drop()
            raise

    def count(self, position: int, action: str) -> None:
        """A wrapped module was called and did ``action``."""
        self._called[position] = True
        if position in self._auxiliary:
            return
        if action == REUSE:
            self._reused += 1
        elif action != SKIP:
            self._computed += 1

    def _scheduled(
        self,
        original: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        step: int,
        num_steps: int,
    ) -> Any:
        inputs = self._inputs(args, kwargs)
        key, track = self._branches.find(inputs, step)
        if track is None:
            track = self._start(key, inputs, step, num_steps)
        row = track.program.row(step)
        tampered = track.tampered(row.actions)
        if tampered:
            for position in tampered:
                self.clones[position] = True
            self.stats.restarted("a kept output was modified in place")
            track = self._start(key, inputs, step, num_steps)
            row = track.program.row(step)
        self.actions, self.slots, self.hollows = row.actions, track.slots, track.hollows
        self.versions = track.versions
        if self.correct is not None:
            self.corrections = self.correct(step, num_steps)
        output = self._whole(track, row.actions, original, args, kwargs)
        self.actions, self.slots = self._exact_actions, self._no_values
        if self.left_out.is_due:
            row = self._refit(track, row, step, num_steps)
        if not self.counting:
            track.seal(row.actions)
        self._book(track, row.actions)
        track.free(row.frees)
        track.next_step = step + 1
        return output

    def _refit(self, track: Track, row: Row, step: int, num_steps: int) -> Row:
        """Go on with a program that lacks what this call has shown not to fit; returns its row for this step."""
        self.left_out.is_due = False
        self._programs.clear()
        self._tallies.clear()
        program = self.program(num_steps, track.program.start)
        self.wrap(program)
        self.warn(self.left_out.words(self.name))
        if not is_stored(program, step, row.actions):
            # Sites inside of one that was left out have to be stored first: all branches start anew.
            self._branches.clear()
            self.stats.restarted("a site was left out")
            return row
        track.program = program
        return program.row(step)

    def _whole(
        self,
        track: Track,
        actions: tuple[str, ...],
        original: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Run the denoiser; its own output is a site too, the first one."""
        if track.program.active[:1] == (0,):
            self.count(0, actions[0])
        if actions[0] == REUSE:
            return map_tree(torch.clone, track.slots[0]) if self.clones[0] else track.slots[0]
        output = (self.runner or _run_eagerly)(actions, original, args, kwargs)
        if actions[0] == STORE:
            track.slots[0] = map_tree(torch.clone, output) if self.clones[0] else output
            track.versions[0] = versions(track.slots[0])
        return output

    def _exact(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._drop()
        self.warn(
            f"'{self.name}' was called outside a run of this pipeline's scheduler "
            f"({type(self.clock.scheduler).__name__}); it computes everything. If another scheduler drives it, "
            "pass that one: accelerate_pipeline(denoiser, plan, scheduler=scheduler)."
        )
        return original(*args, **kwargs)

    def _start(self, key: Any, inputs: Inputs, step: int, num_steps: int) -> Track:
        if self.left_out.look():
            self._programs.clear()
            self._tallies.clear()
            if self.left_out.reasons:
                self.warn(self.left_out.words(self.name))
        program = self.program(num_steps, step)
        self.wrap(program)
        track = Track(program, inputs, step)
        self._branches.keep(key, track)
        return track

    # -- book-keeping ---------------------------------------------------------------------------------------------

    def _begin_run(self, num_steps: int, inputs: Inputs) -> None:
        self._run = self.clock.run
        self._drop()
        self.counting = self.runner is None and not any(m._compiled_call_impl for m in self.denoiser.modules())
        found = conditions_of_run(
            self.clock.owner,
            self.clock.scheduler,
            self.denoiser,
            num_steps=num_steps,
            latent_size=self.family.latent_size(inputs.signature[0][0]) if inputs.signature else None,
        )
        for doubt in self.plan.doubts(found):
            self.warn(doubt)
        self._computed = self._reused = 0
        self._called = [False] * len(self.graph)
        self.stats = RunStats(num_steps=num_steps, conditions=found, uncovered=self.plan.uncovered(found))
        if not self.counting:
            self.stats.actual_computed = self.stats.actual_reuse = None

    def _book(self, track: Track, actions: tuple[str, ...]) -> None:
        key = (id(track.program), id(actions))
        if key not in self._tallies:
            self._tallies[key] = Tally.of(track.program, actions, self._auxiliary)
        self.stats.book(self._tallies[key], actions, self._branches)
        if self.counting:
            self.stats.actual_computed, self.stats.actual_reuse = self._computed, self._reused

    def _finish(self) -> None:
        """The scheduler has taken its last step: check that what was planned happened."""
        self._drop()
        if not self.gate.in_place():
            self.warn(
                f"someone has replaced '{self.name}.forward', so the plan is no longer in force; apply it again after "
                "whatever wraps the denoiser."
            )
        stats = self.stats
        if self._run != self.clock.run or not stats.calls:
            return
        program = self.program(stats.num_steps)
        silent = [self.graph.sites[p].id for p in program.active if not self._called[p]]
        complaint = stats.complaint(self.name, program.planned(REUSE), silent)
        if complaint is not None:
            self.warn(complaint)

    def _drop(self) -> None:
        self._branches.clear()
        self.actions, self.slots, self.hollows = self._exact_actions, self._no_values, list(self._no_values)

    def warn(self, message: str) -> None:
        """Warn once; with ``strict`` raise instead.

        Raises:
            PlanMismatchError: ``strict`` is set.
        """
        if self.strict:
            raise PlanMismatchError(message)
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, AccelerationWarning, stacklevel=4)


def _run_eagerly(
    actions: tuple[str, ...], original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    return original(*args, **kwargs)
