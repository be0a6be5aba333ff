"""Fits weights of its own to each guidance branch.

Only the guided output matters to the scheduler, but it is made of two: u + g (c - u). Regressed on the outputs of both
branches, each with its own weight, the target has twice the regressors and not one more denoiser call; the found
weights are those of the branches once the factors g and 1 - g are taken out. On emoji-pixart at fourfold this was
worth 1.4 dB, more than all else that was tried there (``docs/trajectories.md``).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from dit_accel.calibration.learner import Learner, table_of
from dit_accel.calibration.recording import Evaluation
from dit_accel.errors import UnsupportedModelError
from dit_accel.passes.trajectory.branches import BOTH, CONDITIONAL, UNCONDITIONAL, branch_of, why_no_branches
from dit_accel.passes.trajectory.config import LATENTS
from dit_accel.passes.trajectory.halves import compute_half, conditional_half
from dit_accel.runtime.call import Call, Inner
from dit_accel.runtime.denoiser import DenoiserRuntime
from dit_accel.runtime.trees import leaves, map_tree
from dit_accel.schedules.theory import theory_weights

BY = "calibration of branches"
LINEAR_TOLERANCE_FRAC = 1e-2


@dataclass(slots=True)
class Halves:
    """Notes the outputs of guidance branches, and computes but the conditional one where that is asked for.

    Attributes:
        outputs: Of the last run, by evaluation and branch; each [B, C or more, ...].
        conditional: Evaluations of which the conditional branch alone is computed; its output stands in for both.
        kept: Outputs that are there from the beginning of each run: those of evaluations that are replayed.
    """

    outputs: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)
    conditional: frozenset[int] = frozenset()
    kept: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)
    _run: int = -1
    _last: Any = None

    def watch(self, runtimes: tuple[DenoiserRuntime, ...], owner: Any) -> None:
        """Note what these denoisers compute from now on.

        Raises:
            UnsupportedModelError: The branches of one of them cannot be told apart.
        """
        for runtime in runtimes:
            reason = why_no_branches(runtime.target)
            if reason is not None:
                raise UnsupportedModelError(reason)
            runtime.around(self._noting(runtime, owner), order=1, by=BY)

    def _noting(self, runtime: DenoiserRuntime, owner: Any) -> Callable[[Call, Inner], Any]:
        def note(call: Call, inner: Inner) -> Any:
            branch = branch_of(call, runtime.target, owner)
            alone = call.step in self.conditional
            if alone and branch == UNCONDITIONAL:
                return map_tree(torch.clone, self._last)
            output = self._half(runtime, call, inner) if alone and branch == BOTH else inner(call)
            leaf = leaves(output)[0].detach()
            parts = {branch or "": leaf}
            if branch == BOTH:
                parts = dict(zip((UNCONDITIONAL, CONDITIONAL), leaf.chunk(2), strict=True))
            self._last = output
            if call.run.number != self._run:
                self._run = call.run.number
                self.outputs = dict(self.kept)
            before = self.outputs.get(call.step, {})
            self.outputs[call.step] = {**before, **{name: part.clone() for name, part in parts.items()}}
            return output

        return note

    def _half(self, runtime: DenoiserRuntime, call: Call, inner: Inner) -> Any:
        names = list(runtime.inputs.by_name(call.args, {}))
        arguments = conditional_half(call, names, runtime.target.family.conditioning)
        if isinstance(arguments, str):
            raise UnsupportedModelError(f"half of a call of '{runtime.name}' cannot be computed: {arguments}")
        return map_tree(lambda half: torch.cat([half, half]), compute_half(call, inner, arguments))


@dataclass(slots=True)
class BranchLearner(Learner):
    """A learner whose regressors are the outputs of both branches.

    Those of the conditional one are named by their evaluation, those of the other by T more.

    Attributes:
        halves: Has noted the outputs of every computed evaluation.
        scale: Guidance scale at the last computed evaluation, as found in the outputs.
    """

    halves: Halves = field(default_factory=Halves)
    scale: float = 1.0
    _others: dict[int, dict[int, float]] = field(default_factory=dict)
    _cross: dict[int, dict[int, float]] = field(default_factory=dict)

    def wants(self, step: int) -> bool:
        """Whether anything of the step is computed."""
        return (step in self.computed or step in self.halves.conditional) and not self.is_replayed(step)

    def output(self, evaluation: Evaluation) -> torch.Tensor:
        """The denoiser's output, or the answer that is fitted now."""
        if evaluation.step in self.computed:
            self.scale = self._scale(self._seen(evaluation))
        return Learner.output(self, evaluation)

    def _fields(self) -> dict[str, Any]:
        steps, alone = self.reference.num_steps, self.halves.conditional
        fields = {**Learner._fields(self), "unconditional": table_of(self._others, steps)}
        if alone:
            fields["conditional"] = tuple(step in alone for step in range(steps))
            fields["cross"] = torch.zeros(steps, 2 * steps + 2, dtype=torch.float64)
            for step, weights in self._cross.items():
                for place, weight in weights.items():
                    fields["cross"][step, place] = weight
        return fields

    def _half(self, step: int, branch: str, like: torch.Tensor) -> torch.Tensor:
        half = self.halves.outputs[step][branch].to(like.device)
        return half if half.shape == like.shape else half[:, : like.shape[1]]

    def _scale(self, evaluation: Evaluation) -> float:
        """g of u + g (c - u), which the guided output must be."""
        found = self.halves.outputs.get(evaluation.step, {})
        if set(found) != {CONDITIONAL, UNCONDITIONAL}:
            raise UnsupportedModelError(
                "weights for each guidance branch take a run with guidance, whose branches can be told apart; in this "
                f"one there are: {', '.join(sorted(found)) or 'none'}"
            )
        low, high = (
            self._half(evaluation.step, branch, evaluation.output).double() for branch in (UNCONDITIONAL, CONDITIONAL)
        )
        apart, guided = high - low, evaluation.output.double() - low
        scale = float((guided * apart).sum() / apart.square().sum().clamp_min(1e-30))
        rounding = max(torch.finfo(each.dtype).eps for each in (*found.values(), evaluation.output))
        within = LINEAR_TOLERANCE_FRAC * float(guided.norm()) + rounding * float(evaluation.output.double().norm())
        if scale <= 1 or float((guided - scale * apart).norm()) > within:
            raise UnsupportedModelError(
                "the guided output is not u + g (c - u) of the two halves of the batch (guidance rescale, or another "
                "order of the branches): fit one set of weights for both"
            )
        return scale

    def _names(self, evaluation: Evaluation) -> list[int]:
        """Conditional outputs, of half calls too, unconditional ones, and the latents."""
        names = Learner._names(self, evaluation)
        steps, denoisers = self.reference.num_steps, self.reference.denoisers
        alone = [
            step
            for step in self.halves.conditional
            if step <= evaluation.step and step in self.halves.outputs and denoisers[step] == evaluation.denoiser
        ]
        return [*names, *(name + steps for name in names if name >= 0), *sorted(alone)] if names else names

    def _of(self, name: int, evaluation: Evaluation) -> torch.Tensor:
        steps = self.reference.num_steps
        if name < 0:
            return Learner._of(self, name, evaluation)
        branch = CONDITIONAL if name < steps else UNCONDITIONAL
        return self._half(name % steps, branch, evaluation.output)

    def _prior(self, evaluation: Evaluation, names: list[int]) -> Any:
        steps, levels = self.reference.num_steps, self.reference.levels
        whole = [name - steps for name in names if name >= steps]
        theory = theory_weights(levels, whole, evaluation.step) if levels else {}
        prior = {name: self.scale * weight for name, weight in theory.items()}
        if evaluation.step in self.halves.conditional:
            prior = {evaluation.step: self.scale}
        prior |= {name + steps: (1 - self.scale) * weight for name, weight in theory.items()}
        return np.array([prior.get(name, 0.0) for name in names])

    def _gain(self, weights: Mapping[int, float]) -> float:
        """Of a computed one are the errors of both branches, by their shares in it."""
        return Learner._gain(self, weights) / float(np.hypot(self.scale, 1 - self.scale))

    def _steady(self, names: Sequence[int]) -> dict[int, float]:
        steps = self.reference.num_steps
        conditional = max(name for name in names if name < steps)
        return {conditional: self.scale, max(name for name in names if name >= steps): 1 - self.scale}

    def _note(self, evaluation: Evaluation, weights: dict[int, float]) -> None:
        steps, step = self.reference.num_steps, evaluation.step
        if step in self.halves.conditional:
            self._note_half(evaluation, weights)
            return
        self._rows[step] = {name: weight / self.scale for name, weight in weights.items() if 0 <= name < steps}
        self._others[step] = {
            name - steps: weight / (1 - self.scale) for name, weight in weights.items() if name >= steps
        }
        if LATENTS in weights:
            assert evaluation.given
            for row in (self._rows[step], self._others[step]):
                row[LATENTS] = weights[LATENTS] / evaluation.given

    def _note_half(self, evaluation: Evaluation, weights: dict[int, float]) -> None:
        """What is left of the guided target for the unconditional branch, once the conditional one is taken out."""
        steps, step = self.reference.num_steps, evaluation.step
        row = {**weights, step: weights[step] - self.scale}
        found = {(name + steps) % (2 * steps): weight for name, weight in row.items() if name >= 0}
        if LATENTS in weights:
            assert evaluation.given
            found[LATENTS] = weights[LATENTS] / evaluation.given
        self._cross[step] = {name: weight / (1 - self.scale) for name, weight in found.items()}
