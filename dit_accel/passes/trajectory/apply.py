"""Trajectory plans: few denoiser evaluations are computed, the others are answered from them, without the denoiser.

An answer is a sum of the branch's earlier outputs, its current latents and the initial noise; the weights are fitted
to recorded runs (:mod:`dit_accel.calibration`) or come from theory. All guidance branches share one set: guidance is
linear in its branches, so a combination of outputs is the same combination of guided outputs.

Sources: fitted solvers (BNS, Shaul et al., arXiv 2403.01329; DPM-Solver-v3, Zheng et al., arXiv 2310.13268), learned
linear forecasts of cached outputs (L2P, arXiv 2604.26365), choice of steps (DPCache, arXiv 2602.22654; LeMiCa, arXiv
2511.00090; MeanCache, arXiv 2601.19961). Departure from all of them: the weights are fitted on the accelerated run
itself, to the output that brings this scheduler's latents back onto the recorded run.
"""

from collections.abc import Hashable
from typing import Any

from dit_accel.errors import UnsupportedModelError
from dit_accel.passes.base import Pass, register_pass
from dit_accel.passes.trajectory.answers import Answers
from dit_accel.passes.trajectory.branches import BOTH, CONDITIONAL, UNCONDITIONAL, branch_of, why_no_branches
from dit_accel.passes.trajectory.config import NAME, TrajectoryConfig
from dit_accel.passes.trajectory.halves import (
    answer_second_call,
    answer_unconditional,
    compute_half,
    conditional_half,
)
from dit_accel.passes.trajectory.history import Filter, History, Weights, are_alike
from dit_accel.passes.trajectory.levels import noise_levels, why_not
from dit_accel.passes.trajectory.scheduler import TrajectoryScheduler
from dit_accel.runtime.call import Call, Effect, Inner, Run
from dit_accel.runtime.denoiser import DenoiserRuntime
from dit_accel.runtime.sockets import ANSWERS, DECIDES
from dit_accel.runtime.trees import Tree, leaves

WHAT = "denoiser calls answered from earlier ones"
DEFAULT_STEPS = 20  # what a plan for any number of steps says before the first run


class Forecasts:
    """Stands around every call of one denoiser and answers those that the plan does not compute.

    Args:
        runtime: Of the denoiser.
        config: The plan.

    Attributes:
        doubted: In words, where the guard found a forecast too far off in the current run.
        halved: Calls of the current run of which half was answered.
        seen: The largest relative error of the forecast of each evaluation that the guard has compared, of all runs.
        most_bytes: Most memory that was held at once, of all runs.
    """

    def __init__(self, runtime: DenoiserRuntime, config: TrajectoryConfig) -> None:
        self.runtime = runtime
        self.config = config
        self.doubted: str | None = None
        self.seen: dict[int, float] = {}
        self._answers = Answers(config, config.num_steps or DEFAULT_STEPS, ())
        self._histories: dict[Hashable, History] = {}
        self._last_answered: dict[Hashable, int] = {}
        self.halved = 0
        self.most_bytes = 0
        runtime.clock.on_end.append(self.forget)
        runtime.ledger.on_undo(lambda: runtime.clock.on_end.remove(self.forget), by=NAME)

    def forget(self) -> None:
        """Let go of all outputs: the run is over."""
        self._histories, self._last_answered = {}, {}

    def begin(self, run: Run) -> None:
        """A run begins: carry the plan to it, and say where it is not what the plan was fitted to."""
        self.doubted, self.halved = None, 0
        self.forget()
        reason = why_not(run.scheduler)
        if reason is not None:
            self.runtime.warn(f"{reason}; everything is computed")
            self._answers = Answers(TrajectoryConfig(computed=(True,) * run.num_steps), run.num_steps, ())
            return
        levels, scale = noise_levels(run.scheduler), self._scale(run)
        self._answers = answers = Answers(self.config, run.num_steps, levels, scale)
        steps = self.config.num_steps
        if steps is not None and steps != run.num_steps:
            how = "its weights, carried to them" if answers.is_carried else "theory"
            self.runtime.warn(
                f"the trajectory plan is for {steps} denoiser evaluations and the run has {run.num_steps}: "
                f"{len(answers.computed)} are computed, the rest answered by {how}; what was measured no longer holds"
            )
        elif answers.is_moved:
            self.runtime.warn(
                "the noise levels of this run are not those that the trajectory plan was fitted to (another size or "
                "scheduler setting): its weights are moved by what theory says of the difference"
            )
        if not self.config.is_for_guidance(scale):
            low, *_, high = self.config.guidance
            self.runtime.warn(
                f"the guidance scale of '{self.runtime.name}' is {scale:g}, and the trajectory plan was fitted from "
                f"{low:g} to {high:g}: its weights are carried on, and their error is not known"
            )

    def _scale(self, run: Run) -> float | None:
        """The guidance scale of this denoiser in this run: a second expert has one of its own (Wan 2.2)."""
        second = getattr(self.runtime.clock.owner, "_guidance_scale_2", None)
        if self.runtime.name.endswith("_2") and isinstance(second, int | float):
            return float(second)
        return run.conditions.guidance_scale

    @property
    def num_computed(self) -> int:
        """Evaluations of the last run that the plan computes whole."""
        answers = self._answers
        return len(answers.computed if answers.is_carried else self.config.steps_of(len(answers.levels)))

    def answers(self, run: Run, branch: Hashable) -> frozenset[int]:
        """The evaluations that the plan answers."""
        alone = self._answers.conditional if branch == UNCONDITIONAL else frozenset()
        return self._answers.answered | alone

    def __call__(self, call: Call, inner: Inner) -> Tree:
        """Compute the call and keep what it gives, or answer it."""
        latents = call.args[0] if call.args else next(iter(call.kwargs.values()))
        history = self._histories.get(call.branch)
        if history is None or call.begins:
            history = self._histories[call.branch] = History(call.step, latents)
        if call.step in self._answers.answered and not self._is_due(call):
            weights, first, by = self._weights(call, history)
            if weights is not None:
                self._last_answered[call.branch] = call.step
                return history.combine(weights, latents, by, first)
        if call.step in self._answers.conditional and self.doubted is None:
            half = self._half(call, inner, history, latents)
            if half is not None:
                return half
        output = inner(call)
        if not history.computed:
            history.takes_latents = are_alike(latents, leaves(output)[0])
        if self._answers.config.guarded and self.doubted is None:
            self._compare(call, history, latents, output)
        self._keep(call, history, output)
        return output

    def _keep(self, call: Call, history: History, output: Tree) -> None:
        """Keep an output if anything later is combined from it; of half a call that may be its other half."""
        answers = self._answers
        if answers.config.guarded or call.step < answers.last or call.step in answers.conditional:
            history.keep(call.step, output)
            held = sum(each.kept_bytes() for each in self._histories.values())
            self.most_bytes = max(self.most_bytes, held)

    def _half(self, call: Call, inner: Inner, history: History, latents: Any) -> Tree | None:
        """The output of a call of which the conditional branch alone is computed; ``None``: compute it whole."""
        target = self.runtime.target
        branch, weights = branch_of(call, target, self.runtime.clock.owner), self._answers.cross(call.step)
        if branch == UNCONDITIONAL:
            answer = answer_second_call(history, self._histories.get(CONDITIONAL), weights, latents)
            if answer is not None:
                self._last_answered[call.branch] = call.step
            return answer
        known = {node: weight for node, weight in weights[1].items() if node != call.step}
        if branch != BOTH or not history.has(weights[0]) or not history.has(known):
            return None
        names = list(self.runtime.inputs.by_name(call.args, {}))
        arguments = conditional_half(call, names, target.family.conditioning)
        if isinstance(arguments, str):
            self.runtime.warn(f"half of a call of '{self.runtime.name}' cannot be computed, so all is: {arguments}")
            return None
        output = answer_unconditional(history, weights, latents, compute_half(call, inner, arguments), call.step)
        self.halved += 1
        self._keep(call, history, output)
        return output

    def _is_due(self, call: Call) -> bool:
        """Whether the guard wants this call computed: it has lost its trust, and the last one was answered."""
        return self.doubted is not None and self._last_answered.get(call.branch) == call.step - 1

    def _weights(self, call: Call, history: History) -> tuple[Weights | None, Weights | None, Filter | None]:
        """Weights of a call, those of the first half of its batch where it has its own, and the filter, if any."""
        fitted, first = self._fitted(call)
        if fitted is not None and history.has(fitted) and (first is None or history.has(first)):
            return fitted, first, self._answers.filter(call.step)
        return (self._answers.by_theory(call.step, history.computed) if history.computed else None), None, None

    def _fitted(self, call: Call) -> tuple[Weights | None, Weights | None]:
        own = self._answers.fitted(call.step)
        if self.config.unconditional is None or own is None:
            return own, None
        other = self._answers.of_unconditional(call.step)
        branch = branch_of(call, self.runtime.target, self.runtime.clock.owner)
        if branch is None:
            self.runtime.warn(
                f"the guidance branches of '{self.runtime.name}' cannot be told apart in this run, and the trajectory "
                "plan has weights for each: theory answers"
            )
            return None, None
        if branch == BOTH:
            return own, other
        return (own if branch == CONDITIONAL else other), None

    def _compare(self, call: Call, history: History, latents: Any, output: Tree) -> None:
        """The guard: how far is what would have been forecast from what was computed?"""
        forecast, first = self._fitted(call)
        if forecast is None or not history.has(forecast) or (first is not None and not history.has(first)):
            return
        error, allowed = history.error(forecast, latents, output, first), self.config.guard[call.step]
        self.seen[call.step] = max(error, self.seen.get(call.step, 0.0))
        if error > allowed > 0:
            self.doubted = (
                f"the guard of '{self.runtime.name}' found evaluation {call.step} at {error:.3g} from its forecast, "
                f"and in calibration it was never above {allowed:.3g}: from there on no two in a row were answered"
            )


def apply_trajectory(runtime: DenoiserRuntime, config: TrajectoryConfig) -> None:
    """Answer the calls of one denoiser that the plan does not compute.

    Raises:
        UnsupportedModelError: The scheduler adds new noise at every step, or the plan has weights for guidance
            branches that this denoiser has not.
    """
    reason = why_not(runtime.clock.owner.scheduler)
    if reason is None and config.unconditional is not None:
        reason = why_no_branches(runtime.target)
    if reason is not None:
        raise UnsupportedModelError(reason)
    if config.conditional and runtime.target.family.guidance == "batched":
        runtime.claim(DECIDES, by=NAME)  # kept values of sites would be of the whole batch
    forecasts = Forecasts(runtime, config)
    runtime.each_run(forecasts.begin, by=NAME)
    runtime.around(forecasts, answers=forecasts.answers, by=NAME)


def effect_of_trajectory(runtime: DenoiserRuntime, config: TrajectoryConfig) -> Effect:
    """Share of the denoiser calls that were answered."""
    stats, forecasts = runtime.stats, runtime.around_of(NAME)
    assert isinstance(forecasts, Forecasts)
    steps = stats.num_steps if stats.calls else config.num_steps or DEFAULT_STEPS
    computed = forecasts.num_computed if stats.calls else len(config.steps_of(steps))
    planned = 1 - (computed + (sum(config.conditional) / 2 if steps == config.num_steps else 0)) / steps
    if not stats.calls:
        return Effect(what=WHAT, planned_frac=planned)
    shortfall = forecasts.doubted
    answered = stats.answered + forecasts.halved / 2
    if shortfall is None and planned and not answered:
        shortfall = (
            f"no call of '{runtime.name}' was answered in this run of {steps} evaluations "
            f"({stats.reasons or 'too few steps'}); it was no faster than without the plan."
        )
    return Effect(
        what=WHAT,
        planned_frac=planned,
        actual_frac=answered / stats.calls,
        total=stats.calls,
        shortfall=shortfall,
        kept_bytes=forecasts.most_bytes,
    )


register_pass(
    Pass(
        config=TrajectoryConfig,
        summary="computes few denoiser calls and answers the others by combinations of earlier outputs",
        phase="calls",
        claims=frozenset((ANSWERS,)),
        example=TrajectoryConfig,
        apply=apply_trajectory,
        effect=effect_of_trajectory,
        as_scheduler=TrajectoryScheduler,
    )
)
