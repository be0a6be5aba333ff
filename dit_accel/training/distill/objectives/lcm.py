"""Latent consistency distillation: two points of one teacher trajectory must be mapped to the same data.

Luo et al. 2023, "Latent Consistency Models", eq. 14, with the trainer's choices of diffusers' LCM-LoRA example: the
target is the student itself without a gradient, no moving average; the loss is pseudo-Huber. In flow coordinates
f(x_t, t) = x_t - t v is the identity at t = 0 as it stands, so c_skip and c_out are not needed. Departs from the
paper: the teacher's step is read from its solved trajectory, ``skip`` of its steps at a time. With ``skip`` all of
    them it is the
regression of the data on the noise (Luhman & Luhman 2021).
"""

from dataclasses import dataclass

import torch

from dit_accel.errors import ConfigError
from dit_accel.training.distill.backbone import per_sample
from dit_accel.training.distill.objectives.base import DistillObjective
from dit_accel.training.distill.objectives.setting import Setting
from dit_accel.training.distill.roles import STUDENT


@dataclass(frozen=True, slots=True, kw_only=True)
class LCMConfig:
    """Settings.

    Attributes:
        skip: Teacher steps between the two points.
        huber_c: Of the pseudo-Huber loss sqrt(d^2 + c^2) - c.
        noise_frac: Share of examples that start at pure noise, where every run starts.
    """

    skip: int = 4
    huber_c: float = 0.001
    noise_frac: float = 0.25

    def __post_init__(self) -> None:
        if self.skip < 1 or self.huber_c <= 0 or not 0 <= self.noise_frac <= 1:
            raise ConfigError(f"skip and huber_c must be positive and noise_frac in [0, 1], got {self}")


class LCM(DistillObjective):
    """See ``DistillObjective``."""

    name = "lcm"
    renoise = True

    def __init__(self, setting: Setting, config: LCMConfig) -> None:
        if config.skip > setting.trajectories.steps:
            raise ConfigError(f"skip {config.skip} is more than the teacher's {setting.trajectories.steps} steps")
        super().__init__(setting)
        self.config = config

    def loss(self, turn: str, step: int, generator: torch.Generator) -> torch.Tensor:
        """Pseudo-Huber distance of the estimates at the later and at the earlier time."""
        solved, b, to = self.setting.trajectories, self.setting.batch_size, self.setting.device
        chosen, text = solved.draw(b, generator)
        text = {name: rows.to(to) for name, rows in text.items()}
        now = torch.randint(solved.steps, (b,), generator=generator)
        now = torch.where(torch.rand(b, generator=generator) < self.config.noise_frac, 0, now)
        then = (now + self.config.skip).clamp(max=solved.steps)
        x, t = solved.at(chosen, now).to(to), solved.sigmas[now].to(to)
        x_then, t_then = solved.at(chosen, then).to(to), solved.sigmas[then].to(to)
        with torch.no_grad():
            target = self.data_estimate(x_then, t_then, text)
        return pseudo_huber(self.data_estimate(x, t, text), target, self.config.huber_c)

    def data_estimate(self, x: torch.Tensor, t: torch.Tensor, text: dict[str, torch.Tensor]) -> torch.Tensor:
        """f(x_t, t)."""
        return x - per_sample(t, x) * self.setting.velocity(STUDENT, x, t, text)


def pseudo_huber(a: torch.Tensor, b: torch.Tensor, c: float) -> torch.Tensor:
    """Mean of sqrt((a - b)^2 + c^2) - c."""
    return ((a - b).square() + c * c).sqrt().sub(c).mean()
