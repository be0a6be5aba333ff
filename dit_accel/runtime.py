"""Runs one denoiser by a schedule: which row applies now, whose kept values it may use, and what it really reused."""

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from dit_accel.clock import Clock
from dit_accel.errors import AccelerationWarning, PlanMismatchError
from dit_accel.families.base import Family, Layout, submodule
from dit_accel.ledger import Patch, PatchLedger
from dit_accel.plan import AccelerationPlan, Conditions
from dit_accel.schedules.lowering import COMPUTE, REUSE, SKIP, STORE, Program, lower
from dit_accel.schedules.schedule import Schedule
from dit_accel.sites import Gate, SiteForward, Tree
from dit_accel.tracks import Inputs, Track

# A pipeline calls its denoiser once per guidance branch and step; more calls than this without the scheduler
# stepping means that another scheduler drives the run.
MAX_BRANCHES = 8

Scheduler = Callable[[int, bool], Schedule]
Runner = Callable[[tuple[str, ...], Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


@dataclass
class RunStats:
    """What happened in one run of one denoiser.

    Attributes:
        num_steps: Denoiser evaluations that the scheduler planned.
        calls: Denoiser calls made.
        site_calls: Module calls that those denoiser calls make at the scheduled sites without a plan.
        planned_computed: Of these, how many the executed rows said to compute.
        planned_reuse: How many they said to answer from kept values (the rest is read by nobody).
        actual_computed: How many were computed; ``None`` when compiled rows ran, which do exactly what their row
            says and are not counted call by call.
        actual_reuse: How many were answered from kept values; ``None`` as above.
        peak_bytes: Most memory that kept values took at once, bytes, over all branches.
        restarts: Why kept values were dropped in mid-run, with counts.
        never_called: Sites planned for reuse whose module was not called at all.
    """

    num_steps: int = 0
    calls: int = 0
    site_calls: int = 0
    planned_computed: int = 0
    planned_reuse: int = 0
    actual_computed: int | None = 0
    actual_reuse: int | None = 0
    peak_bytes: int = 0
    restarts: dict[str, int] = field(default_factory=dict)
    never_called: tuple[str, ...] = ()


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
        self.corrections: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * len(self.graph)
        self.clones = [False] * len(self.graph)
        self._computed = 0
        self._reused = 0
        self._called = [False] * len(self.graph)
        self._context: str | None = None
        self._tracks: dict[Any, Track] = {}
        self._programs: dict[tuple[int, int, bool], Program] = {}
        self._measured: set[tuple[str, ...]] = set()
        self._shapes: dict[tuple[int, int], tuple[int, int, int]] = {}
        self._trusts_conditioning = True
        self._conditioning_restarts = 0
        self._run = -1
        self._at: tuple[int, int] = (-1, -1)
        self._calls_at_step = 0
        self._warned: set[str] = set()
        self._wrapped: dict[int, SiteForward] = {}
        parameters = list(inspect.signature(denoiser.forward).parameters)
        self._latents = (0, parameters[0])
        self._conditioning = [(parameters.index(name), name) for name in family.conditioning if name in parameters]
        ledger.set(denoiser, "forward", Gate(denoiser, self))
        if hasattr(denoiser, "cache_context"):
            ledger.set(denoiser, "cache_context", _CacheContext(denoiser, self))
        clock.on_end.append(self._finish)

    # -- set-up ---------------------------------------------------------------------------------------------------

    def use(self, schedule_for: Scheduler) -> None:
        """Take a function of (step count, whether conditioning can be trusted) to the schedule of a run."""
        self.schedule_for = schedule_for
        self._programs.clear()
        self._shapes.clear()

    def program(self, num_steps: int, start: int = 0) -> Program:
        """The program for a run of ``num_steps`` that starts computing at ``start``."""
        key = (num_steps, start, self._trusts_conditioning)
        if key not in self._programs:
            assert self.schedule_for is not None
            schedule = self.schedule_for(num_steps, self._trusts_conditioning)
            self._programs[key] = lower(schedule, self.graph, start)
        return self._programs[key]

    def wrap(self, program: Program) -> None:
        """Make sure that every site the program touches is wrapped, and wrapped where it now is.

        Loading a LoRA replaces linear layers; a site that was such a layer is then found anew.
        """
        for position in program.active:
            site = self.layout.sites[position]
            if not site.path:
                continue  # the whole model: the gate itself answers
            module = submodule(self.denoiser, site.path)
            wrapped = self._wrapped.get(position)
            if wrapped is not None and wrapped.owner is module:
                wrapped.hollows = wrapped.hollows or self._needs_hollow(program, position)
                continue
            if wrapped is not None:
                self.ledger.undo_on(wrapped.owner)
            if module is None:
                continue
            hollows = self._needs_hollow(program, position)
            forward = SiteForward(module, self, position, streams=site.streams, hollows=hollows)
            self.ledger.set(module, "forward", forward)
            self._wrapped[position] = forward

    def _needs_hollow(self, program: Program, position: int) -> bool:
        return position in program.skipped and not self.graph.sites[position].auxiliary

    @property
    def num_wrapped(self) -> int:
        """How many modules are wrapped."""
        return len(self._wrapped)

    def release(self) -> None:
        """Forget everything that is kept; wrappers that others still hold on to then only compute."""
        self.schedule_for = None
        self._drop()
        if self._finish in self.clock.on_end:
            self.clock.on_end.remove(self._finish)

    # -- the hot path ---------------------------------------------------------------------------------------------

    def call(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One denoiser call."""
        if self.schedule_for is None:
            return original(*args, **kwargs)
        if torch.compiler.is_compiling():
            return _call_outside_graph(self, original, args, kwargs)
        step, num_steps = self.clock.position()
        if self.clock.run != self._run:
            self._begin_run(num_steps, self._inputs(args, kwargs))
        index = self._call_index(step)
        if step >= num_steps or index >= MAX_BRANCHES:
            return self._exact(original, args, kwargs)
        try:
            return self._scheduled(original, args, kwargs, step, num_steps, index)
        except BaseException:
            self._drop()
            raise

    def count(self, position: int, action: str) -> None:
        """A wrapped module was called and did ``action``."""
        self._called[position] = True
        if self.graph.sites[position].auxiliary:
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
        index: int,
    ) -> Any:
        track = self._track(self._inputs(args, kwargs), step, num_steps, index)
        row = track.program.row(step)
        tampered = track.tampered(row.actions)
        if tampered:
            for position in tampered:
                self.clones[position] = True
            self._note_restart("a kept output was modified in place")
            track = self._start(self._key(index), track.inputs, step, num_steps)
            row = track.program.row(step)
        self.actions, self.slots, self.hollows = row.actions, track.slots, track.hollows
        if self.correct is not None:
            self.corrections = self.correct(step, num_steps)
        if row.actions[0] == REUSE and not self.layout.sites[0].path:
            self.count(0, REUSE)
            output = track.slots[0]
        elif self.runner is not None:
            output = self.runner(row.actions, original, args, kwargs)
        else:
            output = original(*args, **kwargs)
        if row.actions[0] == STORE and not self.layout.sites[0].path:
            track.slots[0] = output
        self.actions, self.slots = self._exact_actions, self._no_values
        track.seal(row.actions)
        self._book(track, row.actions)
        track.free(row.frees)
        track.next_step = step + 1
        return output

    def _exact(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._drop()
        self.warn(
            f"'{self.name}' was called outside a run of this pipeline's scheduler "
            f"({type(self.clock.scheduler).__name__}); it computes everything. If another scheduler drives it, "
            "pass that one: accelerate_pipeline(denoiser, plan, scheduler=scheduler)."
        )
        return original(*args, **kwargs)

    def _call_index(self, step: int) -> int:
        at = (self.clock.run, step)
        self._calls_at_step = self._calls_at_step + 1 if at == self._at else 0
        self._at = at
        return self._calls_at_step

    def _inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
        def argument(place: tuple[int, str]) -> Any:
            return args[place[0]] if place[0] < len(args) else kwargs.get(place[1])

        return Inputs.of(argument(self._latents), [argument(place) for place in self._conditioning])

    def _key(self, index: int) -> Any:
        return index if self._context is None else self._context

    def _track(self, inputs: Inputs, step: int, num_steps: int, index: int) -> Track:
        """The track this call continues, or a new one."""
        key = self._key(index)
        if self._context is None:
            # Guidance may have been switched off: then the first call of a step is not the branch it used to be.
            for other, candidate in self._tracks.items():
                if candidate.fits(step, inputs) and candidate.inputs.same_conditioning(inputs):
                    key = other
                    break
        track = self._tracks.get(key)
        if track is None or not track.fits(step, inputs):
            if track is not None:
                self._note_restart("another step or shape than expected")
            return self._start(key, inputs, step, num_steps)
        if self._trusts_conditioning and not track.inputs.same_conditioning(inputs):
            self._conditioning_restarts += 1
            self._note_restart("the conditioning changed")
            if self._conditioning_restarts > 2:
                self._trusts_conditioning = False  # this pipeline makes new tensors at every step
            return self._start(key, inputs, step, num_steps)
        return track

    def _start(self, key: Any, inputs: Inputs, step: int, num_steps: int) -> Track:
        program = self.program(num_steps, step)
        self.wrap(program)
        track = Track(program, inputs, step)
        self._tracks[key] = track
        return track

    # -- book-keeping ---------------------------------------------------------------------------------------------

    def _begin_run(self, num_steps: int, inputs: Inputs) -> None:
        self._run = self.clock.run
        self._drop()
        self.counting = self.runner is None and not any(m._compiled_call_impl for m in self.denoiser.modules())
        shape = inputs.signature[0][0]
        found = Conditions(
            num_steps=num_steps,
            scheduler=type(self.clock.scheduler).__name__,
            latent_size=tuple(shape[1:2] if self.family.latent_layout == "BNC" else shape[2:]),
            guidance_scale=getattr(self.clock.owner, "_guidance_scale", None),
        )
        for doubt in self.plan.conditions.doubts(found):
            self.warn(f"this run differs from what plan '{self.plan.name}' was made for: {doubt}")
        self._computed = self._reused = 0
        self._called = [False] * len(self.graph)
        self._conditioning_restarts = 0
        self._measured.clear()
        self.stats = RunStats(num_steps=num_steps)
        if not self.counting:
            self.stats.actual_computed = self.stats.actual_reuse = None

    def _book(self, track: Track, actions: tuple[str, ...]) -> None:
        stats = self.stats
        scheduled, computed, reused = self._shape_of(track.program, actions)
        stats.calls += 1
        stats.site_calls += scheduled
        stats.planned_computed += computed
        stats.planned_reuse += reused
        if self.counting:
            stats.actual_computed, stats.actual_reuse = self._computed, self._reused
        if actions not in self._measured:
            self._measured.add(actions)
            stats.peak_bytes = max(stats.peak_bytes, sum(t.kept_bytes() for t in self._tracks.values()))

    def _shape_of(self, program: Program, actions: tuple[str, ...]) -> tuple[int, int, int]:
        """How many sites the program schedules, and how many of them a row computes and reuses."""
        key = (id(program), id(actions))
        if key not in self._shapes:
            chosen = [actions[p] for p in program.active if not self.graph.sites[p].auxiliary]
            computed = sum(action in (COMPUTE, STORE) for action in chosen)
            self._shapes[key] = (len(chosen), computed, chosen.count(REUSE))
        return self._shapes[key]

    def _note_restart(self, reason: str) -> None:
        self.stats.restarts[reason] = self.stats.restarts.get(reason, 0) + 1

    def _finish(self) -> None:
        """The scheduler has taken its last step: check that what was planned happened."""
        self._drop()
        stats = self.stats
        if self._run != self.clock.run or not stats.calls:
            return
        planned = self._planned()
        if planned and not stats.planned_reuse:
            self.warn(
                f"the plan reuses outputs of '{self.name}', but this run of {stats.num_steps} steps reused none "
                f"({_reasons(stats.restarts)}); it was no faster than without the plan."
            )
        elif stats.actual_reuse is not None and stats.actual_reuse < stats.planned_reuse:
            silent = [self.graph.sites[p].id for p in self.program(stats.num_steps).active if not self._called[p]]
            stats.never_called = tuple(silent)
            self.warn(
                f"'{self.name}' reused {stats.actual_reuse} of {stats.planned_reuse} planned outputs; "
                f"never called: {', '.join(silent[:4]) or 'none'}{' ...' if len(silent) > 4 else ''}."
            )

    def _planned(self) -> int:
        return self.program(self.stats.num_steps).planned(REUSE) if self.stats.num_steps else 0

    def _drop(self) -> None:
        self._tracks.clear()
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


class _CacheContext(Patch[nn.Module]):
    """``denoiser.cache_context(name)``: pipelines that call once per guidance branch name the branch with it."""

    def __init__(self, denoiser: nn.Module, runtime: DenoiserRuntime) -> None:
        super().__init__(denoiser, "cache_context")
        self.runtime = runtime

    def __call__(self, name: str, *args: Any, **kwargs: Any) -> "_NamedBranch":
        return _NamedBranch(self.runtime, name, self.original(name, *args, **kwargs))


class _NamedBranch:
    def __init__(self, runtime: DenoiserRuntime, name: str, inner: Any) -> None:
        self.runtime = runtime
        self.name = name
        self.inner = inner

    def __enter__(self) -> Any:
        self.runtime._context = self.name
        return self.inner.__enter__()

    def __exit__(self, *exc: Any) -> Any:
        self.runtime._context = None
        return self.inner.__exit__(*exc)


@torch.compiler.disable(reason="dit-accel: compile with pipe.transformer.compile() or CompileConfig, row by row")
def _call_outside_graph(
    runtime: DenoiserRuntime, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    runtime.warn(
        f"'{runtime.name}' was compiled around the acceleration with torch.compile(module); it now runs uncompiled. "
        "Compile it with pipe.transformer.compile() or a CompileConfig in the plan instead."
    )
    return runtime.call(original, args, kwargs)


def _reasons(restarts: dict[str, int]) -> str:
    return "; ".join(f"{reason}, {count} times" for reason, count in restarts.items()) or "too few steps"
