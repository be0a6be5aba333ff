"""What a guidance branch has computed in a run, and answers combined from it."""

from collections.abc import Mapping
from typing import Any

import torch

from dit_accel.passes.trajectory.config import LATENTS, NOISE
from dit_accel.runtime.trees import Tree, leaves, map_tree

Weights = Mapping[int, float]
"""By evaluation; :data:`LATENTS` and :data:`NOISE` for those."""


class History:
    """Outputs of one branch, one denoiser, one run.

    Args:
        start: Evaluation at which it begins.
        latents: What the denoiser is given at that one.

    Attributes:
        takes_latents: Whether latents can be added to outputs.
    """

    def __init__(self, start: int, latents: Any) -> None:
        self.start = start
        self.noise = latents
        self.takes_latents = True
        self._outputs: dict[int, list[torch.Tensor]] = {}
        self._form: Tree = None

    @property
    def computed(self) -> list[int]:
        """The evaluations whose outputs are kept, in order."""
        return list(self._outputs)

    def keep(self, step: int, output: Tree) -> None:
        """Note a computed output; a copy of it, for pipelines may work on it in place."""
        self._outputs[step] = [leaf.detach().clone() for leaf in leaves(output)]
        self._form = output

    def has(self, weights: Weights) -> bool:
        """Whether everything that these weights combine is at hand."""
        if not self.takes_latents and (LATENTS in weights or NOISE in weights):
            return False
        if NOISE in weights and self.start != 0:
            return False
        return all(step in self._outputs for step in weights if step >= 0)

    def combine(self, weights: Weights, latents: Any) -> Tree:
        """The answer: sums in float32 (float64 for such outputs), in the form and dtype of the outputs.

        Args:
            weights: Of what is kept; :meth:`has` must hold.
            latents: What the denoiser is given now.
        """
        given = iter(range(len(next(iter(self._outputs.values())))))
        return map_tree(lambda like: self._leaf(next(given), weights, latents).to(like.dtype), self._form)

    def error(self, weights: Weights, latents: Any, output: Tree) -> float:
        """How far a forecast is from an output, relative to it; waits for the device."""
        true = leaves(output)[0]
        forecast = self._leaf(0, weights, latents)
        return float((forecast - true).norm() / true.norm().clamp_min(1e-12))

    def _leaf(self, place: int, weights: Weights, latents: Any) -> torch.Tensor:
        total: torch.Tensor | None = None
        for step, weight in weights.items():
            if step < 0:
                continue
            kept = self._outputs[step][place]
            if total is None:
                total = kept.to(torch.promote_types(kept.dtype, torch.float32)) * weight
            else:
                total.add_(kept, alpha=weight)
        if total is None:
            total = torch.zeros_like(next(iter(self._outputs.values()))[place], dtype=torch.float32)
        if place == 0:
            for key, value in ((LATENTS, latents), (NOISE, self.noise)):
                if weights.get(key):
                    add_latents(total, value, weights[key])
        return total


def add_latents(total: torch.Tensor, latents: torch.Tensor, weight: float) -> None:
    """Add latents to an output in place; where it has more channels (a learned variance), to the first of them."""
    if latents.shape != total.shape:
        total = total[:, : latents.shape[1]]
    total.add_(latents, alpha=weight)


def are_alike(latents: Any, output: torch.Tensor) -> bool:
    """Whether latents can be added to an output: equal shapes but for further channels of the output."""
    if not isinstance(latents, torch.Tensor) or latents.dim() != output.dim():
        return False
    if latents.shape == output.shape:
        return True
    rest = (latents.shape[0], *latents.shape[2:]) == (output.shape[0], *output.shape[2:])
    return latents.dim() > 3 and rest and latents.shape[1] < output.shape[1]
