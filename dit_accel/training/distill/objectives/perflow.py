"""PeRFlow: straighten the flow inside each of K windows of time, so that one Euler step crosses a window.

Yan et al. 2024, "PeRFlow: Piecewise Rectified Flow as Universal Plug-and-Play Accelerator", §3. Departs from the
paper: a window starts at a point of the teacher's own trajectory rather than at noised data, so no data are needed and
    the
teacher has been solved once for all of training; and a share of the examples lies at the start of the window, the one
place that a run of K steps ever asks about.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from dit_accel.errors import ConfigError
from dit_accel.training.distill.backbone import per_sample
from dit_accel.training.distill.objectives.base import DistillObjective
from dit_accel.training.distill.objectives.setting import Setting
from dit_accel.training.distill.roles import STUDENT


@dataclass(frozen=True, slots=True, kw_only=True)
class PeRFlowConfig:
    """Settings.

    Attributes:
        windows: K, the steps of the student; must divide the teacher's.
        start_frac: Share of examples at the start of a window; the others are uniform in it.
    """

    windows: int = 4
    start_frac: float = 0.5

    def __post_init__(self) -> None:
        if self.windows < 1 or not 0 <= self.start_frac <= 1:
            raise ConfigError(f"windows must be positive and start_frac in [0, 1], got {self}")


class PeRFlow(DistillObjective):
    """See ``DistillObjective``."""

    name = "perflow"

    def __init__(self, setting: Setting, config: PeRFlowConfig) -> None:
        steps = setting.trajectories.steps
        if steps % config.windows:
            raise ConfigError(f"{config.windows} windows do not divide the teacher's {steps} steps")
        super().__init__(setting)
        self.config = config

    def loss(self, turn: str, step: int, generator: torch.Generator) -> torch.Tensor:
        """Mean squared error to the velocity of the straight line from a window's start to its end."""
        x, t, target, text = self.example(generator)
        return F.mse_loss(self.setting.velocity(STUDENT, x, t, text), target)

    def example(
        self, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """Points on the lines [B, ...], their times [B], the lines' velocities, and the text."""
        solved, b = self.setting.trajectories, self.setting.batch_size
        length = solved.steps // self.config.windows
        chosen, text = solved.draw(b, generator)
        start = length * torch.randint(self.config.windows, (b,), generator=generator)
        inside = torch.rand(b, generator=generator)
        inside = torch.where(torch.rand(b, generator=generator) < self.config.start_frac, 0.0, inside)
        t_start, t_end = solved.sigmas[start], solved.sigmas[start + length]
        x_start, x_end = solved.at(chosen, start), solved.at(chosen, start + length)
        x = torch.lerp(x_start, x_end, per_sample(inside, x_start))
        velocity = (x_start - x_end) / per_sample(t_start - t_end, x_start)
        to = self.setting.device
        return (
            x.to(to), torch.lerp(t_start, t_end, inside).to(to), velocity.to(to),
            {name: rows.to(to) for name, rows in text.items()},
        )  # fmt: skip
