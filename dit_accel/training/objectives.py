"""What a denoiser is trained to predict, and at which times: velocity under a noise schedule, or flow matching."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers import DDPMScheduler

NOISE_SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
}
TRAIN_TIMESTEPS = 1000


class Objective(Protocol):
    """How clean latents and noise become a training example. B latents of any shape [B, ...]."""

    def times(self, fraction: torch.Tensor) -> torch.Tensor:
        """Map fractions in [0, 1), float32 [B], to the timesteps that the denoiser is given, [B]."""
        ...

    def example(
        self, clean: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Noisy latents and what is to be predicted from them, each of the shape of ``clean``."""
        ...


class VPrediction:
    """v-prediction on the squared-cosine schedule.

    Salimans & Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion Models", eq. in §4 and appendix D; the
    schedule is that of Nichol & Dhariwal 2021, which reaches almost zero signal: the white background needs that.
    """

    def __init__(self) -> None:
        self.scheduler = DDPMScheduler(**NOISE_SCHEDULE)

    def times(self, fraction: torch.Tensor) -> torch.Tensor:
        """Whole timesteps, int64 [B]."""
        return (fraction * TRAIN_TIMESTEPS).long()

    def example(
        self, clean: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See ``Objective``."""
        noisy: torch.Tensor = self.scheduler.add_noise(clean, noise, timestep)
        target: torch.Tensor = self.scheduler.get_velocity(clean, noise, timestep)
        return noisy, target


@dataclass(frozen=True, slots=True)
class FlowMatching:
    """Rectified flow with shifted times: Lipman et al. 2023; Esser et al. 2024 ("SD3"), §3.1 and eq. 23.

    Attributes:
        shift: Time shift; 1 is none. Departs from SD3: times are uniform before the shift, not logit-normal, because
            a few thousand steps must teach the ends too.
    """

    shift: float

    def times(self, fraction: torch.Tensor) -> torch.Tensor:
        """Timesteps sigma * 1000, float32 [B]."""
        return TRAIN_TIMESTEPS * self.shift * fraction / (1 + (self.shift - 1) * fraction)

    def example(
        self, clean: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See ``Objective``; the target is the velocity from data to noise."""
        sigma = (timestep / TRAIN_TIMESTEPS).view(-1, *[1] * (clean.dim() - 1))
        return torch.lerp(clean, noise, sigma), noise - clean


def flux_shift(tokens: int) -> float:
    """Time shift of FLUX's dynamic shifting for so many image tokens: exp(mu), mu linear in the token count.

    The line goes through (256, 0.5) and (4096, 1.15), as in ``FlowMatchEulerDiscreteScheduler``'s config of FLUX.1.
    """
    return math.exp(0.5 + (tokens - 256) * (1.15 - 0.5) / (4096 - 256))
