"""Sampling as Euler's method: the variable in which it is, and the model's output as the velocity of that variable.

A flow model's latents z move with dz/dsigma = output. For diffusion models the same holds, by the identity that DDIM
rests on, for z = x / alpha and the noise level sigma / alpha: dz/d(sigma / alpha) = the predicted noise. Models that
predict something else predict the noise implicitly.
"""

from dataclasses import dataclass
from typing import Any

import torch

PREDICTIONS = ("epsilon", "v_prediction", "sample")
SCHEDULERS = (
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
)


@dataclass(frozen=True, slots=True)
class Velocities:
    """Converts at each step of a run.

    Attributes:
        levels: Noise level of each step, falling.
        scales: What latents are divided by at each step.
        kind: What the model predicts; ``velocity``: nothing is to be converted.
    """

    levels: tuple[float, ...]
    scales: tuple[float, ...]
    kind: str

    def position(self, step: int, latents: torch.Tensor) -> torch.Tensor:
        """The variable that moves, [*latents]."""
        return latents / self.scales[step]

    def velocity(self, step: int, output: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """The model's output as a velocity, [*latents]."""
        if self.kind in ("velocity", "epsilon"):
            return output
        alpha, sigma, x = self._preserved(step, latents)
        return alpha * output + sigma * x if self.kind == "v_prediction" else (x - alpha * output) / sigma

    def output(self, step: int, velocity: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """The inverse of :meth:`velocity`."""
        if self.kind in ("velocity", "epsilon"):
            return velocity
        alpha, sigma, x = self._preserved(step, latents)
        return (velocity - sigma * x) / alpha if self.kind == "v_prediction" else (x - sigma * velocity) / alpha

    def _preserved(self, step: int, latents: torch.Tensor) -> tuple[float, float, torch.Tensor]:
        """Alpha, sigma and latents where alpha^2 + sigma^2 = 1."""
        level = self.levels[step]
        alpha = (1 + level**2) ** -0.5
        return alpha, level * alpha, self.position(step, latents) * alpha


def velocities_of(scheduler: Any) -> Velocities:
    """Of a run that ``set_timesteps`` has prepared, for one of ``SCHEDULERS``."""
    name, config, steps = type(scheduler).__name__, scheduler.config, len(scheduler.timesteps)
    kind = config.get("prediction_type", "epsilon")
    if name == "DDIMScheduler":
        kept = [float(scheduler.alphas_cumprod[int(t)]) for t in scheduler.timesteps]
        return Velocities(tuple((1 / a - 1) ** 0.5 for a in kept), tuple(a**0.5 for a in kept), kind)
    levels = tuple(float(level) for level in scheduler.sigmas[:steps])
    ones = (1.0,) * steps
    if name.startswith("FlowMatch") or config.get("use_flow_sigmas", False):
        return Velocities(levels, ones, "velocity")
    if name == "EulerDiscreteScheduler":
        return Velocities(levels, ones, kind)
    return Velocities(levels, tuple((1 + level**2) ** -0.5 for level in levels), kind)


def why_no_velocities(scheduler: Any) -> str | None:
    """``None``, or why the output of a model is no velocity here."""
    name, config = type(scheduler).__name__, scheduler.config
    if name not in SCHEDULERS:
        return f"our implementation does not know the variable in which {name} is Euler's method"
    kind = config.get("prediction_type", "epsilon")
    flow = name.startswith("FlowMatch") or config.get("use_flow_sigmas", False)
    if not flow and kind not in PREDICTIONS:
        return f"our implementation does not know models that predict '{kind}'"
    return None
