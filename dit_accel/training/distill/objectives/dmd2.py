"""DMD2: the student's samples should look to the teacher as they look to a critic that was trained on them.

Yin et al. 2024, "Improved Distribution Matching Distillation" (arXiv 2405.14867): eq. 2's difference of scores with
DMD's normaliser, several critic updates a student update (§4.2), and backward simulation (§4.5): the student is
trained at the inputs that its own run of a few steps arrives at. Departs from the paper: no GAN of its own; LADD's
heads can be added (see ``ladd.py``), and in flow coordinates the difference of scores is one of data estimates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from dit_accel.errors import ConfigError
from dit_accel.training.distill.backbone import Condition, per_sample
from dit_accel.training.distill.objectives.base import DistillObjective
from dit_accel.training.distill.objectives.setting import Setting
from dit_accel.training.distill.roles import CRITIC, STUDENT, TEACHER


@dataclass(frozen=True, slots=True, kw_only=True)
class DMD2Config:
    """Settings.

    Attributes:
        critic_updates: A student update; the paper's 5.
        t_min: Least noise at which samples are compared.
        t_max: Most.
    """

    critic_updates: int = 5
    t_min: float = 0.02
    t_max: float = 0.98

    def __post_init__(self) -> None:
        if self.critic_updates < 1 or not 0 < self.t_min < self.t_max < 1:
            raise ConfigError(f"critic_updates must be positive and 0 < t_min < t_max < 1, got {self}")


class DMD2(DistillObjective):
    """See ``DistillObjective``.

    Args:
        setting: Roles student and critic.
        config: Settings.
        steps: Numbers of steps of the runs that are simulated, drawn evenly.
    """

    name = "dmd2"
    roles = (STUDENT, CRITIC)
    renoise = True

    def __init__(self, setting: Setting, config: DMD2Config, steps: Sequence[int]) -> None:
        super().__init__(setting)
        self.config = config
        self.schedules = [setting.backbone.sigmas(count).to(setting.device) for count in steps]

    def turns(self, step: int) -> tuple[str, ...]:
        """The critic some times, then the student."""
        return (CRITIC,) * self.config.critic_updates + (STUDENT,)

    def loss(self, turn: str, step: int, generator: torch.Generator) -> torch.Tensor:
        """The critic's flow matching on samples, or the student's distribution matching."""
        text = self.setting.draw_text(generator)
        x, t = self.simulate(text, generator)
        if turn == CRITIC:
            with torch.no_grad():
                data = self.estimate(x, t, text)
            return self.critic_loss(data, text, generator)
        data = self.estimate(x, t, text)
        return surrogate(data, self.gradient(data.detach(), text, generator))

    @torch.no_grad()
    def simulate(self, text: Condition, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Backward simulation: the input of a random step of a random run of the student, and its time [B]."""
        b = self.setting.batch_size
        schedule = self.schedules[int(torch.randint(len(self.schedules), (1,), generator=generator))]
        stop = int(torch.randint(len(schedule) - 1, (1,), generator=generator))
        x = self.setting.noise(b, generator)
        for index in range(stop):
            data = self.estimate(x, schedule[index].expand(b), text)
            x = torch.lerp(data, self.setting.noise(b, generator), schedule[index + 1])
        return x, schedule[stop].expand(b)

    def estimate(self, x: torch.Tensor, t: torch.Tensor, text: Condition) -> torch.Tensor:
        """The student's estimate of the data."""
        return x - per_sample(t, x) * self.setting.velocity(STUDENT, x, t, text)

    def critic_loss(self, data: torch.Tensor, text: Condition, generator: torch.Generator) -> torch.Tensor:
        """Flow matching on the student's samples."""
        x, t, noise = self._noised(data, generator)
        return F.mse_loss(self.setting.velocity(CRITIC, x, t, text), noise - data)

    @torch.no_grad()
    def gradient(self, data: torch.Tensor, text: Condition, generator: torch.Generator) -> torch.Tensor:
        """DMD's direction: the critic's estimate less the teacher's, over the mean distance to the teacher's."""
        x, t, _ = self._noised(data, generator)
        scale = per_sample(t, x)
        fake = x - scale * self.setting.velocity(CRITIC, x, t, text)
        real = x - scale * self.setting.velocity(TEACHER, x, t, text)
        distance = (data - real).abs().flatten(1).mean(1).clamp_min(1e-6)
        return torch.nan_to_num((fake - real) / per_sample(distance, x))

    def _noised(
        self, data: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        t = torch.rand(len(data), generator=generator) * (self.config.t_max - self.config.t_min) + self.config.t_min
        t, noise = t.to(data.device), self.setting.noise(len(data), generator)
        return torch.lerp(data, noise, per_sample(t, data)), t, noise


def surrogate(data: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """A loss whose gradient with respect to ``data`` is ``gradient`` over the number of its elements."""
    return 0.5 * F.mse_loss(data, (data - gradient).detach())
