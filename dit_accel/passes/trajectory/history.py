"""What a guidance branch has computed in a run, and answers combined from it."""

from collections.abc import Mapping
from typing import Any

import torch

from dit_accel.passes.trajectory.config import LATENTS, NOISE
from dit_accel.runtime.trees import Tree, leaves, map_tree

Weights = Mapping[int, float]
"""By evaluation; :data:`LATENTS` and :data:`NOISE` for those."""

Filter = tuple[int, torch.Tensor]
"""An evaluation, and the matrix [C, C] by which the channels of its output are mixed."""


class History:
    """Outputs of one branch, one denoiser, one run.

    Args:
        start: Evaluation at which it begins.
        latents: What the denoiser is given at that one.

    Attributes:
        takes_latents: Whether latents can be added to outputs.
        form: The last output, for its form.
    """

    def __init__(self, start: int, latents: Any) -> None:
        self.start = start
        self.noise = latents
        self.takes_latents = True
        self._outputs: dict[int, list[torch.Tensor]] = {}
        self.form: Tree = None

    @property
    def computed(self) -> list[int]:
        """The evaluations whose outputs are kept, in order."""
        return list(self._outputs)

    def kept_bytes(self) -> int:
        """Memory of what is kept."""
        return sum(leaf.numel() * leaf.element_size() for kept in self._outputs.values() for leaf in kept)

    def keep(self, step: int, output: Tree) -> None:
        """Note a computed output; a copy of it, for pipelines may work on it in place."""
        self._outputs[step] = [leaf.detach().clone() for leaf in leaves(output)]
        self.form = output

    def has(self, weights: Weights) -> bool:
        """Whether everything that these weights combine is at hand."""
        if not self.takes_latents and (LATENTS in weights or NOISE in weights):
            return False
        if NOISE in weights and self.start != 0:
            return False
        return all(step in self._outputs for step in weights if step >= 0)

    def combine(self, weights: Weights, latents: Any, by: Filter | None = None, first: Weights | None = None) -> Tree:
        """The answer: sums in float32 (float64 for such outputs), in the form and dtype of the outputs.

        Args:
            weights: Of what is kept; :meth:`has` must hold.
            latents: What the denoiser is given now.
            by: What is added of one output with its channels mixed; left out where that output is not kept.
            first: Weights of the first half of the batch, where it has weights of its own.
        """
        given = iter(range(len(next(iter(self._outputs.values())))))

        def leaf(like: torch.Tensor) -> torch.Tensor:
            place = next(given)
            total = self._whole(place, weights, latents, first)
            if by is not None and place == 0 and by[0] in self._outputs:
                add_mixed(total, self._outputs[by[0]][0], by[1])
            return total.to(like.dtype)

        return map_tree(leaf, self.form)

    def error(self, weights: Weights, latents: Any, output: Tree, first: Weights | None = None) -> float:
        """How far a forecast is from an output, relative to it: the furthest sample of the batch.

        Channels that are no output of the latents' kind (a learned variance) do not count. Waits for the device.
        """
        true, forecast = leaves(output)[0], self._whole(0, weights, latents, first)
        if self.takes_latents and true.shape != latents.shape:
            true, forecast = (each[:, : latents.shape[1]] for each in (true, forecast))
        true = true.to(forecast.dtype).flatten(1)
        off = (forecast.flatten(1) - true).norm(dim=1) / true.norm(dim=1).clamp_min(1e-12)
        return float(off.max())

    def _whole(self, place: int, weights: Weights, latents: Any, first: Weights | None) -> torch.Tensor:
        if first is None:
            return self.total(place, weights, latents)
        half = len(next(iter(self._outputs.values()))[place]) // 2
        parts = (first, slice(None, half)), (weights, slice(half, None))
        return torch.cat([self.total(place, own, latents, part) for own, part in parts])

    def total(self, place: int, weights: Weights, latents: Any, part: slice = slice(None)) -> torch.Tensor:
        """What weights make of one tensor of the outputs, in float32 at least, of a part of the batch."""
        total: torch.Tensor | None = None
        for step, weight in weights.items():
            if step < 0:
                continue
            kept = self._outputs[step][place][part]
            if total is None:
                total = kept.to(torch.promote_types(kept.dtype, torch.float32)) * weight
            else:
                total.add_(kept, alpha=weight)
        if total is None:
            total = torch.zeros_like(next(iter(self._outputs.values()))[place][part], dtype=torch.float32)
        if place == 0:
            for key, value in ((LATENTS, latents), (NOISE, self.noise)):
                if weights.get(key):
                    add_latents(total, value[part], weights[key])
        return total


def add_latents(total: torch.Tensor, latents: torch.Tensor, weight: float) -> None:
    """Add latents to an output in place; where it has more channels (a learned variance), to the first of them."""
    if latents.shape != total.shape:
        total = total[:, : latents.shape[1]]
    total.add_(latents, alpha=weight)


def add_mixed(total: torch.Tensor, output: torch.Tensor, matrix: torch.Tensor) -> None:
    """Add an output with its channels mixed, in place.

    Args:
        total: [B, C or more, ...], or packed [B, N, C].
        output: Of the same shape.
        matrix: [C, C], from channels of ``output`` to those of ``total``.
    """
    matrix = matrix.to(total)
    if total.dim() == 3:
        total.add_(output.to(total.dtype) @ matrix.T)
    else:
        count = len(matrix)
        total[:, :count].add_(torch.einsum("dc,bc...->bd...", matrix, output[:, :count].to(total.dtype)))


def are_alike(latents: Any, output: torch.Tensor) -> bool:
    """Whether latents can be added to an output: equal shapes but for further channels of the output."""
    if not isinstance(latents, torch.Tensor) or latents.dim() != output.dim():
        return False
    if latents.shape == output.shape:
        return True
    rest = (latents.shape[0], *latents.shape[2:]) == (output.shape[0], *output.shape[2:])
    return latents.dim() > 3 and rest and latents.shape[1] < output.shape[1]
