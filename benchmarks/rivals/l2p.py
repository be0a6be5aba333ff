"""L2P, written by us after the paper: a skipped output is a learned mixture of all outputs computed before it.

Every n-th step is computed. The output of a skipped step t is sum_j w_tj F_j over the computed steps j < t, with
weights that are the same for all prompts, guidance branches and elements. They are learned from recorded plain runs
with every F_j as it was in them (teacher-forced), by squared error, starting from "the last output again".

Departures, since the authors' code is not published yet: the F are the denoiser's outputs, not the states before its
last layer, so that one rule fits every model; and where the authors descend for 200 epochs, the same squared error
is minimised in closed form, with a ridge that pulls towards their starting point.
"""

from collections.abc import Sequence
from typing import Any

import torch

from rivals.base import Rival, Setting, Task
from rivals.kept_outputs import Recording, answer_calls, record, why_not

INTERVALS = (2, 3, 4, 5, 6)
ADVISED = 5
RIDGE = 1e-4  # of the mean squared length of the outputs that are mixed

Products = list[list[float]]
"""Entry [i][j] is the inner product of the outputs at steps i and j, summed over everything that was recorded."""


class L2P(Rival):
    """Skipped outputs as learned linear combinations of the computed ones."""

    name = "L2P"
    method = "L2P-Cache, arXiv 2604.26365"
    made_by = "our implementation of the paper"
    advice = "a uniform interval, N = 5 or 10 in the paper's table for FLUX.1-dev; N = 5, the milder, taken as advice"

    def supports(self, pipe: Any) -> str | None:
        return why_not(pipe)

    def settings(self, pipe: Any, task: Task) -> tuple[Setting, ...]:
        return tuple(
            Setting(name=f"L2P N={n}", rival=self.name, params={"interval": n}, advised=n == ADVISED)
            for n in INTERVALS
        )

    def prepare(self, pipe: Any, task: Task) -> None:
        task.learned(self.name, lambda: inner_products(pipe, task))

    def attach(self, pipe: Any, setting: Setting, task: Task) -> None:
        self.prepare(pipe, task)
        weights = mixtures(task.memory[self.name], setting.params["interval"])
        computed = [row is None for row in weights]

        def answer(step: int, kept: Sequence[torch.Tensor]) -> torch.Tensor:
            row = weights[step]
            assert row is not None
            return sum((w * output for w, output in zip(row, kept, strict=True)), start=torch.zeros_like(kept[0]))

        answer_calls(pipe, computed, answer)


def inner_products(pipe: Any, task: Task) -> Products:
    """Of the denoiser's outputs at all pairs of steps, over guidance branches and the task's prompts for tuning."""
    total = torch.zeros(task.num_inference_steps, task.num_inference_steps, dtype=torch.float64)

    def add(recording: Recording) -> None:
        for outputs in recording.calls.values():
            rows = torch.stack([output.flatten().cpu() for output in outputs]).double()
            total.add_(rows @ rows.T)

    record(pipe, task.calibrate, add)
    products: Products = total.tolist()
    return products


def mixtures(products: Products, interval: int, ridge: float = RIDGE) -> list[list[float] | None]:
    """The weights of every skipped step, by least squares.

    Args:
        products: See :data:`Products`.
        interval: Every how many steps one is computed.
        ridge: Strength of the pull towards the last computed output, relative to the outputs' mean squared length.

    Returns:
        One entry a step: ``None`` where it is computed, or a weight for each step computed before it.
    """
    every = torch.tensor(products, dtype=torch.float64)
    found: list[list[float] | None] = []
    for step in range(len(products)):
        if step % interval == 0:
            found.append(None)
            continue
        known = torch.arange(0, step, interval)
        own = every[known][:, known]
        start = torch.zeros(len(known), dtype=torch.float64)
        start[-1] = 1.0
        pull = ridge * own.diagonal().mean() * torch.eye(len(known), dtype=torch.float64)
        found.append((start + torch.linalg.solve(own + pull, every[known, step] - own @ start)).tolist())
    return found
