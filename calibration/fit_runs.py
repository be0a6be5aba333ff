"""Accelerated runs in which a plan is fitted, or in which weights that are known already are tried."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from dit_accel.calibration.branches import BranchLearner, Halves
from dit_accel.calibration.learner import Learner, Script
from dit_accel.calibration.recording import Draw, Recording, listening
from dit_accel.calibration.regression import RIDGES
from dit_accel.passes.trajectory.apply import TrajectoryConfig
from dit_accel.plan.config import PassConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run, at its end.

    Attributes:
        learner: What it has fitted, or answered by.
        halves: Outputs of the guidance branches, by evaluation; empty where they share their weights.
        pictures: What was drawn.
        off: [P, ...], float64: the last latents less the recorded ones.
        errors: float64 [P]: size of ``off`` relative to the recorded latents.
    """

    learner: Learner
    halves: Mapping[int, dict[str, torch.Tensor]]
    pictures: torch.Tensor
    off: torch.Tensor
    errors: torch.Tensor

    def script(self, start: int, weights: Mapping[int, Mapping[int, float]] | None = None) -> Script:
        """This run again up to an evaluation, with other weights from there on if they are given."""
        learner = self.learner
        earlier = {step: output for step, output in learner.outputs.items() if step < start}
        return Script(weights=learner.solved if weights is None else weights, outputs=earlier, start=start)


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """Makes them.

    Attributes:
        pipe: The pipeline.
        draw: Draws prompts.
        reference: Of exactly these prompts.
        computed: Evaluations to compute.
        first: Of the prompts.
        last: One past the last prompt.
        branches: Whether each guidance branch gets weights of its own.
        conditional: Evaluations of which the conditional branch alone is computed.
        channels: Whether filters over channels are fitted.
        ridges: Strengths of the ridge toward theory to choose from.
        most_gain: Of rounding noise, that answers may have; see :mod:`.calm`.
        under: What is applied meanwhile, with everything computed that is to be.
    """

    pipe: Any
    draw: Draw
    reference: Recording
    computed: frozenset[int]
    first: int
    last: int
    branches: bool = False
    conditional: frozenset[int] = field(default_factory=frozenset)
    channels: bool = False
    ridges: tuple[float, ...] = RIDGES
    most_gain: float = math.inf
    under: tuple[PassConfig, ...] = (TrajectoryConfig(speedup=1.0),)

    def run(self, script: Script | None = None, *, before: Run | None = None, emphasis: Any = None) -> Run:
        """Run once.

        Args:
            script: Weights to answer by; ``None``: they are fitted.
            before: The run that the script replays.
            emphasis: float64 [P]: how much each prompt counts in the fit.

        Raises:
            UnsupportedModelError: The scheduler's step is not linear in the output, or guidance not in its branches.
        """
        fields = (self.reference, self.computed, self.channels, emphasis, script, self.ridges, self.most_gain)
        learner = Learner(*fields)
        halves = Halves(conditional=self.conditional)
        if script is not None and before is not None:
            halves.kept = {step: parts for step, parts in before.halves.items() if step < script.start}
        if self.branches:
            learner = BranchLearner(*fields, halves=halves)
        with listening(self.pipe, learner, self.under) as runtimes:
            if self.branches:
                halves.watch(runtimes, self.pipe)
            pictures = self.draw(self.first, self.last)
        wanted = self.reference.latents[-1].to(learner.latents.device)
        return Run(
            learner=learner,
            halves=halves.outputs,
            pictures=pictures,
            off=(learner.latents - wanted).double(),
            errors=errors_of(learner.latents, wanted),
        )


def errors_of(latents: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """float64 [P]: the distance of latents from the wanted ones, relative to these."""
    wanted = wanted.to(latents.device)
    off: torch.Tensor = (latents - wanted).flatten(1).double().norm(dim=1)
    size: torch.Tensor = wanted.flatten(1).double().norm(dim=1)
    return off / size
