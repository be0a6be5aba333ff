"""How much of an error that is made at some evaluation is left at the end of the run: measured, by making one.

An error made early is damped a hundredfold on some models, and on video it moves the object and grows. What a gap in
the computed steps costs cannot be told without it (LeMiCa, arXiv 2511.00090, measures the same on final images).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from dit_accel.calibration.recording import Draw, Evaluation, Recording, listening

PROBES = 10  # evaluations at which an error is made; between them the logarithm is interpolated
SIZE_FRAC = 0.05  # of the output, that the error is made as large as
HALF_SIZE_FRAC = 0.5  # the same where latents are of half precision: a smaller one is lost in their rounding


def measure_gains(pipe: Any, draw: Draw, reference: Recording, prompts: int, probes: int = PROBES) -> list[float]:
    """The gain of every evaluation: size of the error of the last latents by that of the next ones.

    Args:
        pipe: The pipeline.
        draw: Draws prompts.
        reference: Recorded, with outputs, of prompts from 0 on.
        prompts: How many to use, from 0 on; the gains are a mean over them.
        probes: Evaluations to try.
    """
    steps = reference.num_steps
    some = reference.of(0, prompts)
    tried = sorted({round(k) for k in np.linspace(0, steps - 1, min(probes, steps))})
    logs = []
    for step in tried:
        if step == steps - 1:
            logs.append(0.0)
            continue
        injector = Injector(some, step)
        with listening(pipe, injector):
            draw(0, prompts)
        logs.append(math.log(max(injector.gain, 1e-6)))
    found: list[float] = np.exp(np.interp(range(steps), tried, logs)).tolist()
    return found


@dataclass(slots=True)
class Injector:
    """Replays a recorded run up to a step, makes an error there as forecasts make it, and lets the pipeline go on.

    Attributes:
        reference: The recorded run.
        step: Where the error is made.
        gain: What came out.
    """

    reference: Recording
    step: int
    gain: float = 0.0
    _made: float = 0.0
    _next: int = 0
    _sizes: Sequence[float] = field(default_factory=list)

    def wants(self, step: int) -> bool:
        """Only what comes after the error is computed."""
        return step > self.step

    def output(self, evaluation: Evaluation) -> torch.Tensor:
        """The recorded output, with the error at its step."""
        if evaluation.step > self.step:
            return evaluation.output
        output = self.reference.outputs[evaluation.step].to(evaluation.output.device)
        if evaluation.step == self.step:
            error = self._error(output)
            size = HALF_SIZE_FRAC if evaluation.latents.element_size() < 4 else SIZE_FRAC
            output = output + error * (size * output.norm() / error.norm().clamp_min(1e-12))
        return output

    def end(self, latents: torch.Tensor) -> None:
        """Compare with the recorded latents."""
        off = float((latents - self.reference.latents[self._next + 1].to(latents.device)).norm())
        if self._next == self.step:
            self._made = off
        self.gain = off / max(self._made, 1e-12)
        self._next += 1

    def _error(self, output: torch.Tensor) -> torch.Tensor:
        """What a line through the two outputs before would have been wrong by; noise where there are none."""
        earlier = [each.to(output.device) for each in self.reference.outputs[max(0, self.step - 2) : self.step]]
        if self.step >= 2:
            return 2 * earlier[1] - earlier[0] - output
        if self.step == 1:
            return earlier[0] - output
        generator = torch.Generator().manual_seed(0)
        return torch.randn(output.shape, generator=generator).to(output)
