"""Fits the weights by which a trajectory plan answers evaluations, on its own run.

At each evaluation that is not computed, the run that is being accelerated stands where its own earlier answers have
brought it. The target is the output that would bring this scheduler's latents from there exactly onto the recorded
run at the next evaluation: with x' = alpha + beta * output, (x_ref - alpha) / beta. It is regressed on the run's own
outputs and latents, over all prompts of the batch, and the run goes on with the fitted answer. Weights fitted to
recorded outputs instead drift (LESA, arXiv 2602.20497; on our models 0.5 to 8 dB).

The ridge pulls toward theory's weights, not toward zero (GAS, arXiv 2510.17699); its strength is the one that
predicts best prompts that are left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from dit_accel.calibration.calm import calmed
from dit_accel.calibration.recording import Evaluation, Recording
from dit_accel.calibration.regression import RIDGES, channel_filter, products, ridge_toward
from dit_accel.errors import UnsupportedModelError
from dit_accel.passes.trajectory.apply import TrajectoryConfig
from dit_accel.passes.trajectory.config import LATENTS
from dit_accel.passes.trajectory.history import add_mixed
from dit_accel.schedules.theory import theory_weights

LINEAR_TOLERANCE_FRAC = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What a learner is told instead of finding it out.

    Attributes:
        weights: By which each evaluation that is not computed is answered, by name of the regressor.
        outputs: Of computed evaluations before ``start``, from an earlier run that was the same up to there.
        start: The first evaluation that may differ: none before it is computed again.
        forecasts: Whether forecasts of computed evaluations are fitted.
    """

    weights: Mapping[int, Mapping[int, float]]
    outputs: Mapping[int, torch.Tensor] = field(default_factory=dict)
    start: int = 0
    forecasts: bool = False


@dataclass(slots=True)
class Learner:
    """Fits while the pipeline runs.

    Attributes:
        reference: The recorded run.
        computed: What is computed.
        channels: Whether a matrix for the channels is fitted to each answer.
        emphasis: float64 [P]: how much each prompt counts, 1 in the mean; ``None``: all alike.
        script: Weights to answer by, in place of fitted ones.
        ridges: Strengths of the ridge toward theory to choose from.
        most_gain: Of rounding noise, that an answer's weights may have; see :mod:`.calm`.
        latents: After the last step that was taken.
        outputs: Guided ones of computed evaluations.
        solved: Weights of answered evaluations, by name of the regressor.
        grams: float64 [P, R, R], of the regressors of answered evaluations, where weights were fitted.
    """

    reference: Recording
    computed: frozenset[int]
    channels: bool = False
    emphasis: Any = None
    script: Script | None = None
    ridges: Sequence[float] = RIDGES
    most_gain: float = np.inf
    latents: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    outputs: dict[int, torch.Tensor] = field(default_factory=dict)
    solved: dict[int, dict[int, float]] = field(default_factory=dict)
    grams: dict[int, Any] = field(default_factory=dict)
    _rows: dict[int, dict[int, float]] = field(default_factory=dict)
    _filters: dict[int, torch.Tensor] = field(default_factory=dict)

    def wants(self, step: int) -> bool:
        """Whether the step is computed."""
        return step in self.computed and not self.is_replayed(step)

    def is_replayed(self, step: int) -> bool:
        """Whether the step is as it was in an earlier run."""
        return self.script is not None and step < self.script.start

    def output(self, evaluation: Evaluation) -> torch.Tensor:
        """The denoiser's output, or the answer that is fitted now."""
        evaluation, step = self._seen(evaluation), evaluation.step
        if step in self.computed:
            if self.script is None or self.script.forecasts:
                self._forecast(evaluation)
            self.outputs[step] = evaluation.output.clone()
            return evaluation.output
        if self.script is not None:
            weights = self.solved[step] = dict(self.script.weights[step])
            self._note(evaluation, weights)
            return self._combined(evaluation, weights)
        target = self._target(evaluation)
        weights = self.solved[step] = self._solve(evaluation, target)
        answer = self._combined(evaluation, weights)
        if self.channels:
            last = self.outputs[max(Learner._names(self, evaluation))]
            self._filters[step] = matrix = channel_filter(last, target - answer)
            add_mixed(answer, last, matrix)
        return answer

    def end(self, latents: torch.Tensor) -> None:
        """Note the latents."""
        self.latents = latents

    def config(self) -> TrajectoryConfig:
        """The plan that was fitted."""
        return TrajectoryConfig(**self._fields())

    def _fields(self) -> dict[str, Any]:
        steps = self.reference.num_steps
        none = torch.zeros_like(next(iter(self._filters.values()))) if self._filters else torch.empty(0)
        return {
            "computed": tuple(step in self.computed for step in range(steps)),
            "weights": table_of(self._rows, steps),
            "levels": self.reference.levels,
            "filters": torch.stack([self._filters.get(s, none) for s in range(steps)]) if self._filters else None,
        }

    def _seen(self, evaluation: Evaluation) -> Evaluation:
        """The evaluation, with the output of an earlier run where it is replayed."""
        if self.script is None or not self.is_replayed(evaluation.step) or evaluation.step not in self.computed:
            return evaluation
        return replace(evaluation, output=self.script.outputs[evaluation.step])

    def _forecast(self, evaluation: Evaluation) -> None:
        """Fit what a computed output would have been taken for: what the guard compares it with."""
        if evaluation.step and self._names(evaluation):
            self._solve(evaluation, evaluation.output)

    def _target(self, evaluation: Evaluation) -> torch.Tensor:
        """The output that brings the scheduler onto the recorded run.

        Probed in float32 at least: most schedulers round their result to the output's dtype, and the rounding of half
        precision is no lack of linearity.
        """
        like = evaluation.output.to(torch.promote_types(evaluation.output.dtype, torch.float32))
        alpha = evaluation.advance(torch.zeros_like(like)).double()
        slope = evaluation.advance(torch.ones_like(like)).double() - alpha
        beta = float(slope.mean())
        checked = evaluation.advance(like).double()
        wrong = float((alpha + beta * like.double() - checked).norm())
        if not beta or wrong > LINEAR_TOLERANCE_FRAC * float((checked - alpha).norm().clamp_min(1e-12)):
            raise UnsupportedModelError(
                "the scheduler's step is not linear in the denoiser's output (thresholding or clip_sample): a "
                "trajectory cannot be fitted to it"
            )
        return (self.reference.latents[evaluation.step + 1].to(alpha.device).double() - alpha) / beta

    def _names(self, evaluation: Evaluation) -> list[int]:
        """What there is to regress on: outputs of this denoiser, and the latents if the denoiser is given them."""
        names = [j for j in self.outputs if self.reference.denoisers[j] == evaluation.denoiser]
        if not names:
            return []
        return [*names, LATENTS] if evaluation.given else names

    def _of(self, name: int, evaluation: Evaluation) -> torch.Tensor:
        return evaluation.latents if name == LATENTS else self.outputs[name]

    def _solve(self, evaluation: Evaluation, target: torch.Tensor) -> dict[int, float]:
        names = self._names(evaluation)
        gram, right = products([self._of(name, evaluation) for name in names], target)
        self.grams[evaluation.step] = gram
        if self.emphasis is not None:
            gram, right = gram * self.emphasis[:, None, None], right * self.emphasis[:, None]
        prior = self._prior(evaluation, names)
        found, ridge = ridge_toward(gram, right, prior, self.ridges)

        def gain(weights: Any) -> float:
            return self._gain(dict(zip(names, weights.tolist(), strict=True)))

        if gain(found) > self.most_gain:
            steady = self._steady(names)
            last = np.array([steady.get(name, 0.0) for name in names])
            found = calmed(gram, right, prior, last, gain, self.most_gain, ridge)
        weights = dict(zip(names, found.tolist(), strict=True))
        self._note(evaluation, weights)
        return weights

    def _prior(self, evaluation: Evaluation, names: list[int]) -> Any:
        outputs = [name for name in names if name >= 0]
        theory = theory_weights(self.reference.levels, outputs, evaluation.step) if self.reference.levels else {}
        return np.array([theory.get(name, 0.0) for name in names])

    def _gain(self, weights: Mapping[int, float]) -> float:
        """By how much the noise of an answer is larger than that of a computed output, errors of steps unrelated."""
        return float(np.sqrt(sum(weight**2 for name, weight in weights.items() if name >= 0)))

    def _steady(self, names: Sequence[int]) -> dict[int, float]:
        """The last output as it is."""
        return {max(names): 1.0}

    def _note(self, evaluation: Evaluation, weights: dict[int, float]) -> None:
        row = dict(weights)
        if LATENTS in row:  # in terms of what the denoiser is given, which is all that the pass sees
            assert evaluation.given
            row[LATENTS] /= evaluation.given
        self._rows[evaluation.step] = row

    def _combined(self, evaluation: Evaluation, weights: dict[int, float]) -> torch.Tensor:
        total = torch.zeros_like(evaluation.output, dtype=torch.float32)
        for name, weight in weights.items():
            total.add_(self._of(name, evaluation), alpha=weight)
        return total.to(evaluation.output.dtype)


def table_of(rows: Mapping[int, Mapping[int, float]], steps: int) -> torch.Tensor:
    """Weights by evaluation as plans keep them, float64 [T, T + 2]."""
    table = torch.zeros(steps, steps + 2, dtype=torch.float64)
    for step, weights in rows.items():
        for place, weight in weights.items():
            table[step, place] = weight
    return table
