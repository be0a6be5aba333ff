"""Looks into runs of a pipeline from its scheduler: what each evaluation was given and gave, and what may be changed.

Everything is seen where guidance is already done: the output that the scheduler's ``step`` is given, and the latents.
A recording without a store is held in memory, bytes: (2 T + 1) x B x latent elements x 4, for T evaluations of a batch
of B prompts. With one (:mod:`.store`) it lies on disk, and memory holds one evaluation.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from dit_accel.api import accelerated
from dit_accel.calibration.store import Store
from dit_accel.errors import DitAccelError
from dit_accel.passes.trajectory.apply import TrajectoryConfig
from dit_accel.passes.trajectory.levels import noise_levels
from dit_accel.plan.conditions import Conditions
from dit_accel.plan.config import PassConfig
from dit_accel.runtime.call import Call, Inner
from dit_accel.runtime.denoiser import DenoiserRuntime
from dit_accel.runtime.patch import Patch
from dit_accel.runtime.trees import leaves, map_tree, version
from dit_accel.session.session import session_of

BY = "calibration"

Draw = Callable[[int, int], torch.Tensor]
"""Draws prompts ``first`` to ``last - 1`` in one pipeline call; returns pictures or videos in [0, 1]."""


@dataclass(slots=True, kw_only=True)
class Evaluation:
    """One evaluation of a run, as the scheduler sees it.

    Attributes:
        step: Which.
        denoiser: Name of the one that was called.
        latents: What the scheduler goes on from.
        output: Guided output of the denoiser.
        given: The latents as the denoiser was given them, divided by ``latents``; ``None``: they are something else.
        advance: Runs the scheduler's own step from here with another output, and leaves the scheduler as it is. An
            output of a wider dtype is stepped in that, and nothing is rounded to the run's on the way.
    """

    step: int
    denoiser: str
    latents: torch.Tensor
    output: torch.Tensor
    given: float | None
    advance: Callable[[torch.Tensor], torch.Tensor]


class Listener(Protocol):
    """Sees, and may change, every evaluation of a run."""

    def wants(self, step: int) -> bool:
        """Whether the denoiser has to be called at this step; else the last output stands in for its answer."""

    def output(self, evaluation: Evaluation) -> torch.Tensor:
        """What the scheduler goes on with."""

    def end(self, latents: torch.Tensor) -> None:
        """The latents after the step that was just taken."""


@dataclass(slots=True)
class Recording:
    """What runs of the plain pipeline went through.

    Attributes:
        latents: T + 1 tensors [B, ...]: before each evaluation, and the last ones.
        outputs: T tensors [B, ...].
        denoisers: Name of the denoiser of each evaluation.
        levels: T noise levels.
        conditions: Of the run, as plans know them.
        pictures: What was drawn.
        gram: float64 [2 T + 1, 2 T + 1], if it was made: inner products of latents and outputs.
        store: Where it is kept; ``None``: in memory.
    """

    latents: list[torch.Tensor] = field(default_factory=list)
    outputs: list[torch.Tensor] = field(default_factory=list)
    denoisers: list[str] = field(default_factory=list)
    levels: tuple[float, ...] = ()
    conditions: Conditions = field(default_factory=Conditions)
    pictures: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    gram: Any = None
    store: Store | None = None

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.denoisers)

    def of(self, first: int, last: int) -> "Recording":
        """That of some of the prompts."""
        return Recording(
            [each[first:last] for each in self.latents],
            [each[first:last] for each in self.outputs],
            self.denoisers,
            self.levels,
            self.conditions,
            self.pictures[first:last],
        )

    def wants(self, step: int) -> bool:
        """Everything is computed."""
        return True

    def output(self, evaluation: Evaluation) -> torch.Tensor:
        """Note it."""
        if not self.latents:
            self.latents.append(self._kept("latents", 0, evaluation.latents))
        self.outputs.append(self._kept("outputs", len(self.outputs), evaluation.output))
        self.denoisers.append(evaluation.denoiser)
        return evaluation.output

    def end(self, latents: torch.Tensor) -> None:
        """Note them."""
        self.latents.append(self._kept("latents", len(self.latents), latents))

    def forget_outputs(self) -> None:
        """Let go of the outputs: nothing reads them once the Gram matrix and the gains are there."""
        self.outputs.clear()
        if self.store is not None:
            self.store.drop("outputs")

    def _kept(self, name: str, place: int, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.clone() if self.store is None else self.store.keep(f"{name}-{place:04d}", tensor)


def record(pipe: Any, draw: Draw, first: int, last: int, recording: Recording | None = None) -> Recording:
    """Run the plain pipeline once over some prompts and keep what it goes through, in ``recording`` if it is given."""
    recording = Recording() if recording is None else recording
    with listening(pipe, recording) as runtimes:
        recording.pictures = draw(first, last)
        run = next(runtime.run for runtime in runtimes if runtime.run is not None)
        recording.levels = noise_levels(run.scheduler)
        recording.conditions = run.conditions
    return recording


@contextmanager
def listening(
    pipe: Any, listener: Listener, under: Sequence[PassConfig] = (TrajectoryConfig(speedup=1.0),)
) -> Iterator[tuple[DenoiserRuntime, ...]]:
    """Let a listener see every run inside the block; gives the denoisers' runtimes.

    What is applied to the pipeline is taken off meanwhile; ``under`` is applied in its place.
    """
    with accelerated(pipe, list(under)):
        session = session_of(pipe)
        assert session is not None
        ear = _Ear(listener)
        for runtime in session.runtimes:
            runtime.around(ear.around(runtime), order=-1, by=BY)
        scheduler = pipe.scheduler
        session.ledger.set(scheduler, "step", _Step(scheduler, ear), by=BY)
        yield session.runtimes


class _Ear:
    """Hears denoiser calls and scheduler steps of one pipeline."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.run = -1
        self.step = 0
        self.denoiser = ""
        self.given: Any = None
        self.last: dict[Any, Any] = {}

    def around(self, runtime: DenoiserRuntime) -> Callable[[Call, Inner], Any]:
        def call_or_not(call: Call, inner: Inner) -> Any:
            if call.run.number != self.run:
                self.run, self.step, self.last = call.run.number, 0, {}
            self.denoiser = runtime.name
            self.given = call.args[0] if call.args else next(iter(call.kwargs.values()))
            key = (runtime.name, call.branch)
            if key not in self.last or self.listener.wants(self.step):
                self.last[key] = inner(call)
            return self.last[key]

        return call_or_not


class _Step(Patch[Any]):
    """The scheduler's ``step``, heard."""

    def __init__(self, scheduler: Any, ear: _Ear) -> None:
        super().__init__(scheduler, "step")
        self.ear = ear

    def __call__(
        self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        ear, scheduler = self.ear, self.owner

        def advance(output: torch.Tensor) -> torch.Tensor:
            with _unchanged(scheduler, kwargs.get("generator")):
                here = _as_wide(scheduler, sample, output.dtype)
                return _next_latents(type(scheduler).step(scheduler, output, timestep, here, *args, **kwargs))

        evaluation = Evaluation(
            step=ear.step,
            denoiser=ear.denoiser,
            latents=sample,
            output=model_output,
            given=_ratio(ear.given, sample),
            advance=advance,
        )
        result = self.original(ear.listener.output(evaluation), timestep, sample, *args, **kwargs)
        ear.listener.end(_next_latents(result))
        ear.step += 1
        return result


def _next_latents(result: Any) -> torch.Tensor:
    latents = result[0] if isinstance(result, tuple) else result.prev_sample
    if not isinstance(latents, torch.Tensor):
        raise DitAccelError("the scheduler's step gives no latents")
    return latents


def _as_wide(scheduler: Any, sample: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The sample in a dtype if that is wider, and so what the scheduler keeps of earlier steps: UniPC rounds to it."""
    if torch.promote_types(sample.dtype, dtype) == sample.dtype:
        return sample
    for name, value in vars(scheduler).items():
        if type(value) is list or isinstance(value, torch.Tensor):
            vars(scheduler)[name] = map_tree(
                lambda each: each.to(dtype) if each.dtype == sample.dtype else each, value
            )
    return sample.to(dtype)


@contextmanager
def _unchanged(scheduler: Any, generator: Any) -> Iterator[None]:
    """Whatever a step changes in a scheduler and in random generators is as it was afterwards."""
    kept = {name: value.copy() if type(value) in (list, dict) else value for name, value in vars(scheduler).items()}
    tensors = [(each, version(each), each.clone()) for value in kept.values() for each in leaves(value)]
    generators = generator if isinstance(generator, list) else [] if generator is None else [generator]
    states = [each.get_state() for each in generators]
    state = torch.get_rng_state()
    try:
        yield
    finally:
        vars(scheduler).clear()
        vars(scheduler).update(kept)
        for tensor, before, content in tensors:
            if version(tensor) != before:  # PNDM adds up in place
                tensor.copy_(content)
        torch.set_rng_state(state)
        for each, its_state in zip(generators, states, strict=True):
            each.set_state(its_state)


def _ratio(given: Any, latents: torch.Tensor) -> float | None:
    """By which number the scheduler scaled the latents for the denoiser; ``None``: it was given something else."""
    if not isinstance(given, torch.Tensor) or given.shape[1:] != latents.shape[1:] or len(given) % len(latents):
        return None
    part = given[-len(latents) :].detach().double()
    own = latents.detach().to(part.device).double()
    ratio = float((part * own).sum() / (own * own).sum().clamp_min(1e-30))
    return ratio if float((part - ratio * own).norm()) <= 1e-2 * float(part.norm()) else None
