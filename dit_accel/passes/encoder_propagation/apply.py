"""Encoder propagation: the encoder runs at key steps, and the decoders of the steps between run from what it gave.

Faster Diffusion (Li et al., arXiv 2312.09608; NeurIPS 2024). Such a decoder needs its own timestep and nothing of the
latents of its step, so that the decoders up to the next key step run in one batch with the key step's own. The later
calls of the denoiser are then answered: the pipeline's loop, scaling of inputs, guidance, callbacks and scheduler stay
as they are, and each step gets its own output.

The modules of the encoder are run for the items of one step and answer for all; the denoiser's ``forward`` is the
model's own. ControlNet's residuals are those of the key step, as in the paper (the ControlNet itself runs at every
step: it is no part of the denoiser).
"""

import inspect
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import torch

from dit_accel.errors import UnsupportedModelError
from dit_accel.families.pipeline import find_denoisers
from dit_accel.passes.base import Pass, register_pass
from dit_accel.passes.encoder_propagation.config import NAME, EncoderPropagationConfig
from dit_accel.passes.encoder_propagation.encoder import Encoder, Fan, batch_of, obstacles, widest
from dit_accel.passes.encoder_propagation.prior_noise import PriorNoise
from dit_accel.passes.encoder_propagation.timesteps import Timesteps
from dit_accel.runtime.call import Call, Effect, Inner, Run
from dit_accel.runtime.denoiser import DenoiserRuntime
from dit_accel.runtime.sockets import ANSWERS, DECIDES
from dit_accel.runtime.trees import Tree, map_tree

WHAT = "encoder runs saved"
DEFAULT_STEPS = 50  # what is said before the first run
TIMESTEP = "timestep"


@dataclass(slots=True)
class Segment:
    """What one guidance branch has of its last key step.

    Attributes:
        kept: The encoder's outputs, until the last decoders have read them.
        answers: Outputs of steps that are still to come.
    """

    kept: dict[int, Tree] = field(default_factory=dict)
    answers: dict[int, Tree] = field(default_factory=dict)


class Propagation:
    """Stands around every call of one denoiser.

    Args:
        runtime: Of the denoiser.
        config: The plan.

    Attributes:
        encoder_runs: Calls of the current run in which the encoder ran.
    """

    def __init__(self, runtime: DenoiserRuntime, config: EncoderPropagationConfig) -> None:
        self.runtime = runtime
        self.config = config
        self.encoder = Encoder(runtime.target, config, runtime.ledger)
        self.encoder_runs = 0
        self.max_parallel = widest(runtime.target, config)
        names = list(inspect.signature(runtime.target.denoiser.forward).parameters)
        self._place = names.index(TIMESTEP) if TIMESTEP in names else len(names)
        self._keys: tuple[int, ...] = ()
        self._timesteps: Timesteps | None = None
        self._segments: dict[Hashable, Segment] = {}

    def begin(self, run: Run) -> None:
        """A run begins."""
        self.encoder.ensure()
        self.encoder_runs = 0
        self._timesteps, self._segments = None, {}
        self._keys = self.config.keys_for(run.num_steps)
        if self.config.num_steps not in (None, run.num_steps):
            self.runtime.warn(
                f"the key steps are for {self.config.num_steps} denoiser evaluations and the run has {run.num_steps}: "
                "those at the same fractions are taken; what was measured for them no longer holds"
            )

    def answers(self, run: Run, branch: Hashable) -> frozenset[int]:
        """Evaluations that come out of an earlier one's batch, in a run that begins at the first."""
        keys = self.config.keys_for(run.num_steps)
        answered: set[int] = set()
        for first, following in zip(keys, (*keys[1:], run.num_steps), strict=True):
            answered |= {step for step in range(first, following) if (step - first) % self.max_parallel}
        return frozenset(answered)

    def __call__(self, call: Call, inner: Inner) -> Tree:
        """Answer the call, or run the decoders of this step and of those that follow."""
        segment = self._segments.get(call.branch)
        if segment is None or call.begins:
            segment = self._segments[call.branch] = Segment()
        if call.step in segment.answers:
            return segment.answers.pop(call.step)
        recalls = call.step not in self._keys and bool(segment.kept)
        end = min((key for key in self._keys if key > call.step), default=call.run.num_steps)
        named = self.runtime.inputs.by_name(call.args, call.kwargs)
        batch = batch_of(named)
        width = min(self.max_parallel, end - call.step)
        if width > 1 and not self._can_widen(call, named.get(TIMESTEP), batch):
            width = 1
        if not recalls:
            segment.kept = {}
            self.encoder_runs += 1
        fan = Fan(width=width, batch=batch, kept=segment.kept, recalls=recalls, keeps=call.step + width < end)
        output = self._run(call, inner, fan, named.get(TIMESTEP))
        if not fan.keeps:
            segment.kept = {}
        if width == 1:
            return output
        for later in range(1, width):
            segment.answers[call.step + later] = _of_step(output, later, fan)
        return _of_step(output, 0, fan)

    def _run(self, call: Call, inner: Inner, fan: Fan, timestep: Any) -> Tree:
        args, kwargs = call.args, call.kwargs
        if fan.width > 1:
            assert self._timesteps is not None
            call.args, call.kwargs = _widened(args, fan), _widened(kwargs, fan)
            self._give(call, self._timesteps.at(call.step, fan.width, timestep, fan.batch, _device_of(args, kwargs)))
        self.encoder.stage.fan = fan
        try:
            return inner(call)
        finally:
            self.encoder.stage.fan = None
            call.args, call.kwargs = args, kwargs

    def _give(self, call: Call, timesteps: torch.Tensor) -> None:
        if self._place < len(call.args):
            call.args = (*call.args[: self._place], timesteps, *call.args[self._place + 1 :])
        else:
            call.kwargs = {**call.kwargs, TIMESTEP: timesteps}

    def _can_widen(self, call: Call, timestep: Any, batch: int) -> bool:
        if self._timesteps is None:
            self._timesteps = Timesteps(call.run, call.step, timestep, batch)
        if self._timesteps.reason is not None:
            self.runtime.warn(f"'{NAME}' runs one decoder after the other: {self._timesteps.reason}")
        return self._timesteps.reason is None


def apply_encoder_propagation(runtime: DenoiserRuntime, config: EncoderPropagationConfig) -> None:
    """Let the encoder of one denoiser run at key steps only.

    Raises:
        UnsupportedModelError: The pipeline has a second denoiser.
    """
    owner = runtime.clock.owner
    names = [name for name, _ in find_denoisers(owner)] if hasattr(owner, "components") else []
    if len(names) > 1:
        raise UnsupportedModelError(
            f"'{NAME}' is for pipelines with one denoiser, and this one has {', '.join(names)}: where one takes over "
            "from the other there would be no encoder to propagate from"
        )
    runtime.claim(DECIDES, by=NAME)
    runtime.stay_eager("runs some modules for fewer items than others, which no compiled row can", by=NAME)
    propagation = Propagation(runtime, config)
    propagation.encoder.ensure()
    runtime.each_run(propagation.begin, by=NAME)
    runtime.around(propagation, answers=propagation.answers, by=NAME)
    if config.prior_noise:
        noise = PriorNoise(runtime, config)
        runtime.each_run(noise.begin, by=NAME)
        runtime.clock.before_step.append(noise)


def effect_of_encoder_propagation(runtime: DenoiserRuntime, config: EncoderPropagationConfig) -> Effect:
    """Share of the encoder's runs that were saved."""
    stats, propagation = runtime.stats, runtime.around_of(NAME)
    assert isinstance(propagation, Propagation)
    steps = stats.num_steps if stats.calls else DEFAULT_STEPS
    planned = 1 - len(config.keys_for(steps)) / steps
    if not stats.calls:
        return Effect(what=WHAT, planned_frac=planned)
    actual = 1 - propagation.encoder_runs / stats.calls
    shortfall = None
    if planned and not actual:
        shortfall = (
            f"the encoder of '{runtime.name}' ran in every call of this run of {steps} evaluations "
            f"({stats.reasons or 'too few steps'}); it was no faster than without the plan."
        )
    return Effect(what=WHAT, planned_frac=planned, actual_frac=actual, total=stats.calls, shortfall=shortfall)


def _widened(tree: Tree, fan: Fan) -> Tree:
    """Every tensor that has the items of one step, with those of all."""

    def widen(x: torch.Tensor) -> torch.Tensor:
        is_of_items = x.dim() > 0 and x.shape[0] == fan.batch
        return x.repeat_interleave(fan.width, dim=0) if is_of_items else x

    return map_tree(widen, tree)


def _of_step(output: Tree, later: int, fan: Fan) -> Tree:
    """One step's part of the output of a batch of decoders; a copy, so that the batch can be let go."""
    return map_tree(lambda x: x[later :: fan.width].clone(), output)


def _device_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device:
    latents: torch.Tensor = args[0] if args else next(iter(kwargs.values()))
    return latents.device


register_pass(
    Pass(
        config=EncoderPropagationConfig,
        summary="runs the encoder at key steps only, and the decoders between in batches of several steps",
        phase="calls",
        claims=frozenset((ANSWERS, DECIDES)),
        obstacles=obstacles,
        example=EncoderPropagationConfig,
        apply=apply_encoder_propagation,
        effect=effect_of_encoder_propagation,
    )
)
