"""Fits the weights by which a trajectory plan answers evaluations, on its own run.

At each evaluation that is not computed, the run that is being accelerated stands where its own earlier answers have
brought it. The target is the output that would bring this scheduler's latents from there exactly onto the recorded
run at the next evaluation: with x' = alpha + beta * output, (x_ref - alpha) / beta. It is regressed on the run's own
outputs, latents and initial noise, over all prompts of the batch, and the run goes on with the fitted answer. Weights
fitted to recorded outputs instead drift (LESA, arXiv 2602.20497; on our models 0.5 to 8 dB).

The ridge pulls toward theory's weights, not toward zero (GAS, arXiv 2510.17699); its strength is the one that
predicts best prompts that are left out.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from dit_accel.calibration.recording import Draw, Evaluation, Recording, listening
from dit_accel.errors import UnsupportedModelError
from dit_accel.passes.trajectory.apply import TrajectoryConfig
from dit_accel.passes.trajectory.config import LATENTS, NOISE
from dit_accel.schedules.theory import theory_weights

RIDGES = (1e-8, 1e-6, 1e-4, 1e-2)
STRONG = (*RIDGES, 1e-1, 1.0)  # toward weights that were fitted, which are worth more trust than theory
LINEAR_TOLERANCE_FRAC = 1e-3


@dataclass(slots=True, kw_only=True)
class Fitted:
    """A fitted plan, and how its own run went.

    Attributes:
        config: The plan.
        latents: The last ones, [B, ...].
        pictures: What it drew.
        errors: Per prompt, the distance of its last latents from the recorded ones, relative to the recorded ones.
    """

    config: TrajectoryConfig
    latents: torch.Tensor
    pictures: torch.Tensor
    errors: torch.Tensor


def fit(
    pipe: Any,
    draw: Draw,
    reference: Recording,
    computed: Collection[int],
    first: int,
    last: int,
    *,
    prior: TrajectoryConfig | None = None,
) -> Fitted:
    """Fit the answers of all evaluations but the computed ones, in one run over prompts ``first`` to ``last - 1``.

    Args:
        pipe: The pipeline.
        draw: Draws prompts.
        reference: Of exactly these prompts.
        computed: Evaluations to compute; the first of each denoiser is among them, whether named or not.
        first: Of the prompts.
        last: One past the last prompt.
        prior: A plan of the same computed evaluations, fitted elsewhere (to another guidance scale): the ridge pulls
            toward its weights. ``None``: toward theory's.

    Raises:
        UnsupportedModelError: The scheduler's step is not linear in the output (thresholding, clipping).
    """
    learner = Learner(reference, frozenset(computed) | first_of_each(reference.denoisers), prior=rows_of(prior))
    with listening(pipe, learner):
        pictures = draw(first, last)
    ended, wanted = learner.latents, reference.latents[-1].to(learner.latents.device)
    errors = (ended - wanted).flatten(1).double().norm(dim=1) / wanted.flatten(1).double().norm(dim=1)
    return Fitted(config=learner.config(), latents=ended, pictures=pictures, errors=errors)


def rows_of(config: TrajectoryConfig | None) -> dict[int, dict[int, float]]:
    """The fitted weights of a plan, by evaluation; none without a plan."""
    if config is None or config.weights is None:
        return {}
    rows = {}
    for step, row in enumerate(config.weights.tolist()):
        weights = {place: weight for place, weight in enumerate(row[:LATENTS]) if weight}
        weights |= {key: row[key] for key in (LATENTS, NOISE) if row[key]}
        if weights:
            rows[step] = weights
    return rows


def first_of_each(denoisers: Sequence[str]) -> frozenset[int]:
    """The first evaluation of every denoiser: no answer reaches over the boundary between two."""
    return frozenset(denoisers.index(name) for name in set(denoisers))


@dataclass(slots=True)
class Learner:
    """Fits while the pipeline runs.

    Attributes:
        reference: The recorded run.
        computed: What is computed.
        prior: Weights by evaluation, toward which the ridge pulls in place of theory's.
        latents: After the last step that was taken.
    """

    reference: Recording
    computed: frozenset[int]
    prior: Mapping[int, Mapping[int, float]] = field(default_factory=dict)
    latents: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    _outputs: dict[int, torch.Tensor] = field(default_factory=dict)
    _noise: torch.Tensor | None = None
    _noise_given: float | None = None
    _rows: dict[int, dict[int, float]] = field(default_factory=dict)

    def wants(self, step: int) -> bool:
        """Whether the step is computed."""
        return step in self.computed

    def output(self, evaluation: Evaluation) -> torch.Tensor:
        """The denoiser's output, or the answer that is fitted now."""
        step = evaluation.step
        if step == 0:
            self._noise, self._noise_given = evaluation.latents.clone(), evaluation.given
        if step in self.computed:
            self._forecast(evaluation)
            self._outputs[step] = evaluation.output.clone()
            return evaluation.output
        target = self._target(evaluation)
        weights, _ = self._solve(evaluation, target)
        return self._combined(evaluation, weights)

    def end(self, latents: torch.Tensor) -> None:
        """Note the latents."""
        self.latents = latents

    def config(self) -> TrajectoryConfig:
        """The plan that was fitted."""
        steps = self.reference.num_steps
        table = torch.zeros(steps, steps + 2, dtype=torch.float64)
        for step, weights in self._rows.items():
            for place, weight in weights.items():
                table[step, place] = weight
        return TrajectoryConfig(
            computed=tuple(step in self.computed for step in range(steps)),
            weights=table,
            levels=self.reference.levels,
        )

    def _forecast(self, evaluation: Evaluation) -> None:
        """Fit what a computed output would have been taken for: what the guard compares it with."""
        if evaluation.step and self._names(evaluation):
            self._solve(evaluation, evaluation.output)

    def _target(self, evaluation: Evaluation) -> torch.Tensor:
        """The output that brings the scheduler onto the recorded run."""
        like = evaluation.output
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
        names = [j for j in self._outputs if self.reference.denoisers[j] == evaluation.denoiser]
        if not names:
            return []
        return [*names, LATENTS] if evaluation.given else names

    def _of(self, name: int, evaluation: Evaluation) -> torch.Tensor:
        if name == LATENTS:
            return evaluation.latents
        assert self._noise is not None
        return self._noise if name == NOISE else self._outputs[name]

    def _solve(self, evaluation: Evaluation, target: torch.Tensor) -> tuple[dict[int, float], float]:
        names = self._names(evaluation)
        columns = torch.stack([self._of(name, evaluation).flatten(1).double() for name in names], 1)  # [B, R, D]
        gram = torch.einsum("brd,bsd->brs", columns, columns).cpu().numpy()
        right = torch.einsum("brd,bd->br", columns, target.flatten(1).double()).cpu().numpy()
        found, ridge = ridge_toward(gram, right, self._prior(evaluation, names), STRONG if self.prior else RIDGES)
        weights = dict(zip(names, found.tolist(), strict=True))
        row = dict(weights)
        if LATENTS in row:  # in terms of what the denoiser is given, which is all that the pass sees
            assert evaluation.given
            row[LATENTS] /= evaluation.given
        self._rows[evaluation.step] = row
        return weights, ridge

    def _prior(self, evaluation: Evaluation, names: list[int]) -> Any:
        given = dict(self.prior.get(evaluation.step, {}))
        if given:
            given[LATENTS] = given.get(LATENTS, 0.0) * (evaluation.given or 0.0)
        elif self.reference.levels:
            outputs = [name for name in names if name >= 0]
            given = theory_weights(self.reference.levels, outputs, evaluation.step)
        return np.array([given.get(name, 0.0) for name in names])

    def _combined(self, evaluation: Evaluation, weights: dict[int, float]) -> torch.Tensor:
        total = torch.zeros_like(evaluation.output, dtype=torch.float32)
        for name, weight in weights.items():
            total.add_(self._of(name, evaluation), alpha=weight)
        return total.to(evaluation.output.dtype)


def ridge_toward(gram: Any, right: Any, prior: Any, ridges: Sequence[float] = RIDGES) -> tuple[Any, float]:
    """Least squares with a ridge toward a prior, its strength by leaving one prompt out.

    Args:
        gram: float64 [P, R, R], of the regressors, by prompt.
        right: float64 [P, R], of regressors and target.
        prior: float64 [R].
        ridges: Strengths to choose from, relative to the regressors' own size.

    Returns:
        The weights [R] and the strength.
    """
    size = np.sqrt(np.maximum(np.einsum("prr->r", gram) / len(gram), 1e-30))
    a, b, start = gram / size[:, None] / size, right / size, prior * size
    whole_a, whole_b = a.sum(0), b.sum(0)
    eye = np.eye(len(size))

    def solve(of_a: Any, of_b: Any, ridge: float, count: int) -> Any:
        return start + np.linalg.solve(of_a + ridge * count * eye, of_b - of_a @ start)

    best, chosen = np.inf, ridges[len(ridges) // 2]
    for ridge in ridges if len(a) > 1 else ():
        loss = 0.0
        for k in range(len(a)):
            w = solve(whole_a - a[k], whole_b - b[k], ridge, len(a) - 1)
            loss += float(w @ a[k] @ w - 2 * w @ b[k])
        if loss < best - 1e-12 * abs(best) or best == np.inf:
            best, chosen = loss, ridge
    return solve(whole_a, whole_b, chosen, len(a)) / size, chosen
