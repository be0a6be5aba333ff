"""Runs one denoiser under a plan: read from top to bottom, this is what happens in one call of it.

1. :class:`~dit_accel.runtime.gate.Gate` stands in place of the denoiser's ``forward`` and hands every call to
   :meth:`DenoiserRuntime.call`.
2. The clock, which listens to the scheduler, says which step it is; at a new run its conditions are compared with the
   plan's, and passes are told.
3. :class:`~dit_accel.runtime.branches.Branches` finds the :class:`~dit_accel.runtime.tracks.Track` of this guidance
   branch, with the values that may be used again, or a new one begins.
4. The row source chooses a row: what every site does in this call.
5. The frame is filled, which is all that the wrappers of sites see.
6. Whatever wraps the whole call is run from the outside in, then the denoiser itself, compiled or not.
7. The books are kept: what was stored, what is no longer needed, what was counted.
"""

from collections.abc import Callable
from typing import Any

import torch

from dit_accel.families.targets import Target
from dit_accel.plan.plan import AccelerationPlan
from dit_accel.runtime.branches import Branches, CacheContext
from dit_accel.runtime.call import Call, Inner, Keeper
from dit_accel.runtime.clock import Clock
from dit_accel.runtime.gate import Gate
from dit_accel.runtime.ledger import RUNTIME, PatchLedger
from dit_accel.runtime.rows import RowCompiler
from dit_accel.runtime.runs import Runs
from dit_accel.runtime.scheduled import ComputeEverything
from dit_accel.runtime.tracks import Inputs, Track
from dit_accel.runtime.trees import Tree, map_tree, versions
from dit_accel.runtime.wrapping import Wrappers
from dit_accel.schedules.lowering import REUSE, STORE, Row, RowSet, compute_everything

# A pipeline calls its denoiser once per guidance branch and step; more calls than this without the scheduler
# stepping means that another scheduler drives the run.
MAX_BRANCHES = 8


class DenoiserRuntime(Runs):
    """The state machine of one accelerated denoiser.

    A track may be used only at the step that follows its last one and with inputs of the same shape; anything else
    (image-to-image starting late, guidance switched off or on half-way, a second denoiser taking over, a changed
    batch) starts a new track at the current step, which computes everything. That one rule makes all those cases
    exact.

    Args:
        target: The denoiser.
        clock: Shared by all denoisers of the pipeline.
        ledger: Records every change, also those of passes.
        plan: Its conditions are compared with those of each run.
        strict: Turn warnings into :class:`PlanMismatchError`.
    """

    def __init__(
        self, target: Target, clock: Clock, ledger: PatchLedger, *, plan: AccelerationPlan, strict: bool
    ) -> None:
        super().__init__(target, clock, plan=plan, strict=strict)
        self.ledger = ledger
        self.released = False
        self.compiler: RowCompiler | None = None
        self._plain = ComputeEverything(self.graph)
        self._exact = compute_everything(self.graph)
        self._nothing: list[Tree] = [None] * len(self.graph)
        self._branches = Branches(lambda reason: self.stats.restarted(reason))
        self._wrappers = Wrappers(target.denoiser, target.layout.sites, self.frame, ledger)
        self._wrappers.spans = self.spans
        self._modified = self.frame.clones  # sites that were seen to be modified in place
        self._all_sites = [True] * len(self.graph)
        self._entered = False
        self._kept_by_keepers: list[tuple[int, Keeper]] = []
        self._inner: Inner = self._whole
        self.gate = Gate(target.denoiser, self)
        ledger.set(target.denoiser, "forward", self.gate, by=RUNTIME)
        if hasattr(target.denoiser, "cache_context"):
            ledger.set(target.denoiser, "cache_context", CacheContext(target.denoiser, self._branches), by=RUNTIME)
        clock.on_end.append(self._finish)

    # -- one call -------------------------------------------------------------------------------------------------

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One denoiser call."""
        step, num_steps = self.clock.position()
        if self.run is None or self.clock.run != self.run.number:
            self._drop()
            self.begin_run(num_steps, args, kwargs, compiled=self.compiler is not None)
            self._kept_by_keepers = [(p, keeper) for p, keeper in enumerate(self.keepers) if keeper is not None]
            self._inner = self.chain(self._whole)
        run = self.run
        assert run is not None
        place = self._branches.count_call(run.number, step)
        if step >= num_steps or place >= MAX_BRANCHES:
            return self._outside_a_run(args, kwargs)
        try:
            call = Call(run=run, step=step, branch=None, args=args, kwargs=kwargs, row=self._exact)
            return self._on_track(call, self.inputs(args, kwargs))
        except BaseException:
            self._drop()
            raise

    def _on_track(self, call: Call, inputs: Inputs) -> Any:
        track = None
        if self.keeps_branches_apart:
            call.branch, track = self._branches.find(inputs, call.step)
        if track is None:
            track = self._start(call, inputs)
        self._choose(call, track)
        tampered = track.tampered(call.row.actions)
        if tampered:
            for position in tampered:
                self._modified[position] = True
            self.stats.restarted("a kept output was modified in place")
            track = self._start(call, inputs)
            self._choose(call, track)
        older = self._fill(call, track)
        self._entered = False
        output = self._inner(call)
        if self._entered:
            self._book(call, track, older)
        else:
            self._book_answered(call, track)
        self._rest()
        return output

    def _start(self, call: Call, inputs: Inputs) -> Track:
        """A branch begins a trajectory at this call."""
        call.begins = True
        if self.left_out.look() and self.left_out.reasons:
            self.warn(self.left_out.words(self.name))
        rows = self._rows(call, call.step)
        track = Track(rows, inputs.held(), call.step, call.step)
        track.state = (self.source or self._plain).begin(call, rows)
        if self.keeps_branches_apart:
            self._branches.keep(call.branch, track)
        return track

    def _rows(self, call: Call, start: int, silent: frozenset[str] = frozenset()) -> RowSet:
        """What may happen in a branch's trajectory, its sites wrapped."""
        absent = self.absent(call.run, call.branch)
        rows = (self.source or self._plain).rows(call.run, start, absent, silent.union(self.left_out.reasons))
        self._wrappers.ensure(rows)
        return rows

    def _choose(self, call: Call, track: Track) -> None:
        call.state = track.state
        call.row = (self.source or self._plain).choose(call)

    def _fill(self, call: Call, track: Track) -> dict[int, tuple[Tree, tuple[int, ...]]]:
        """Fill the frame; returns the kept values in front of which new ones will be put, with their versions."""
        frame = self.frame
        frame.actions, frame.variant, frame.state = call.row.actions, call.row.variant, call.state
        frame.slots, frame.hollows, frame.versions = track.slots, track.hollows, track.versions
        # Inference tensors count no changes: nobody would see that one was modified.
        frame.clones = self._all_sites if torch.is_inference_mode_enabled() else self._modified
        older: dict[int, tuple[Tree, tuple[int, ...]]] = {}
        for position, keeper in self._kept_by_keepers:
            if frame.actions[position] == REUSE:
                frame.numbers[position] = keeper.numbers(call, track.steps[position])
            elif frame.actions[position] == STORE:
                older[position] = (track.slots[position], track.versions.get(position, ()))
                track.slots[position] = None
        return older

    def switch(self, call: Call, row: Row) -> None:
        """Change the row of the call that is running, for the sites that it has not reached. Not in compiled rows."""
        call.row = row
        self.frame.actions, self.frame.variant = row.actions, row.variant

    def _whole(self, call: Call) -> Any:
        """Inside all that wraps a call: run the denoiser; its own output is a site too, the first one."""
        self._entered = True
        frame, action = self.frame, call.row.actions[0]
        if action in (STORE, REUSE) and frame.counting:
            frame.called[0] = True
            frame.reused += action == REUSE
            frame.computed += action == STORE
        if action == REUSE:
            kept, keeper = frame.slots[0], frame.keepers[0]
            if keeper is not None:
                return keeper.recall(kept, frame.numbers[0])
            return map_tree(torch.clone, kept) if frame.clones[0] else kept
        if self.compiler is None:
            output = self.gate.original(*call.args, **call.kwargs)
        else:
            output = self.compiler(call.row, self.gate.original, call.args, call.kwargs)
        if action == STORE:
            frame.slots[0] = map_tree(torch.clone, output) if frame.clones[0] else output
            frame.versions[0] = versions(frame.slots[0])
        return output

    def _book(self, call: Call, track: Track, older: dict[int, tuple[Tree, tuple[int, ...]]]) -> None:
        if self.left_out.is_due or call.step == track.start:
            self._refit(call, track)
        actions = call.row.actions
        if not self.frame.counting:
            track.seal(actions)
        for position, (slot, its_versions) in older.items():
            keeper = self.keepers[position]
            if keeper is not None and track.slots[position] is not None:
                track.push(position, keeper, call.step, slot, its_versions)
        self.stats.book(track.rows, actions, self._branches, self.frame)
        track.free(call.row.frees)
        track.next_step = call.step + 1

    def _refit(self, call: Call, track: Track) -> None:
        """Go on without sites that this call has shown not to fit, and without those that the branch never calls."""
        is_due, self.left_out.is_due = self.left_out.is_due, False
        if is_due:
            self.warn(self.left_out.words(self.name))
        stored = [p for p, action in enumerate(call.row.actions) if action == STORE]
        if call.step == track.start:
            track.silent = frozenset(self.graph.sites[p].id for p in stored if track.slots[p] is None)
        elif not is_due:
            return
        rows = self._rows(call, track.start, track.silent)
        if rows == track.rows:
            return
        track.rows, track.state = rows, (self.source or self._plain).begin(call, rows)
        before = call.row
        self._choose(call, track)
        track.free([p for p in stored if call.row.actions[p] != STORE])
        if any(action == STORE and p not in stored for p, action in enumerate(call.row.actions)):
            # What is inside of a site that was left out has to be stored first: all branches start anew.
            call.row = before
            self._branches.clear()
            self.stats.restarted("a site was left out")

    def _book_answered(self, call: Call, track: Track) -> None:
        """Whatever wraps the call answered it, and the denoiser was not called."""
        self.stats.calls += 1
        self.stats.answered += 1
        if STORE in call.row.actions:  # what should have been kept was not computed
            self.stats.restarted("a call was answered without the denoiser")
            self._branches.forget(call.branch)
        else:
            track.next_step = call.step + 1

    def _outside_a_run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._drop()
        self.warn(
            f"'{self.name}' was called outside a run of this pipeline's scheduler "
            f"({type(self.clock.scheduler).__name__}); it computes everything. If another scheduler drives it, "
            "pass that one: accelerate_pipeline(denoiser, plan, scheduler=scheduler)."
        )
        return self.gate.original(*args, **kwargs)

    def _finish(self) -> None:
        """The scheduler has taken its last step: check that what was planned happened."""
        self._drop()
        if not self.gate.in_place():
            self.warn(
                f"someone has replaced '{self.name}.forward', so the plan is no longer in force; apply it again after "
                "whatever wraps the denoiser."
            )
        self.check_effects()

    def _drop(self) -> None:
        self._branches.clear()
        self._rest()
        self.frame.hollows = list(self._nothing)

    def _rest(self) -> None:
        self.frame.actions, self.frame.slots = self._exact.actions, self._nothing
        self.frame.variant = self.frame.state = None
        self.frame.entered = []

    # -- for passes and those who apply them ----------------------------------------------------------------------

    def ensure_wrapped(self, rows: RowSet) -> None:
        """Wrap what these rows touch now, before the first call."""
        self._wrappers.ensure(rows)

    def compile(self, function: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Run every distinct row through a compiled function of its own from the next call on.

        Where a pass asked for :meth:`~dit_accel.runtime.sockets.Sockets.stay_eager`, it warns and compiles nothing.
        """
        if self.eager_because is not None:
            self.warn(f"'{self.name}' stays uncompiled: {self.eager_because}")
        else:
            self.compiler = RowCompiler(function)

    @property
    def num_wrapped(self) -> int:
        """How many modules are wrapped."""
        return len(self._wrappers)

    def release(self) -> None:
        """Forget everything that is kept; wrappers that others still hold on to then only compute."""
        self.released = True
        self._drop()
        if self._finish in self.clock.on_end:
            self.clock.on_end.remove(self._finish)
