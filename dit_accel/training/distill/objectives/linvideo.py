"""LinVideo: learn which layers of self-attention become linear, and recover what that costs, without data.

arXiv 2510.08318. Each layer is r softmax + (1 - r) linear; r is learned with a loss that counts the linear layers and
one that makes r decide, whose power falls. What is lost is recovered by matching distributions at any time (ADM): the
student is its own score model, so no critic is trained. How the sample at t carries the gradient is not spelt out in
what we could read; here x_0 = x_tau - tau v(x_tau) from a point of the teacher's trajectory, noised afresh to t, and
``match="mse"`` is the plain regression of the teacher's velocity, their ablation. Prompts are dropped now and then,
for the unconditional half of guidance; neither network is guided in training.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from dit_accel.errors import ConfigError
from dit_accel.passes.linear_attention_module import MixedLayers, count_loss, decisiveness_loss
from dit_accel.training.distill.backbone import Condition, per_sample
from dit_accel.training.distill.objectives.base import DistillObjective
from dit_accel.training.distill.objectives.setting import Setting
from dit_accel.training.distill.roles import STUDENT, TEACHER


@dataclass(frozen=True, slots=True, kw_only=True)
class LinVideoConfig:
    """Settings.

    Attributes:
        linear: How many layers become linear.
        match: ``"adm"``, or ``"mse"``.
        choice_weight: Of both losses of the choice; the paper's lambda.
        power_start: Of the deciding loss.
        power_end: At the end.
        decide_frac: Share of the training after which the layers are fixed. Until then the power falls; the rest of
            the training is theirs as they will be.
        t_min: Least time at which distributions are compared: the weight (1 - t) / t grows below.
        caption_drop: Share of empty prompts.
    """

    linear: int
    match: Literal["adm", "mse"] = "adm"
    choice_weight: float = 0.01
    power_start: float = 20.0
    power_end: float = 2.0
    decide_frac: float = 0.7
    t_min: float = 0.05
    caption_drop: float = 0.15

    def __post_init__(self) -> None:
        if self.linear < 0 or self.match not in ("adm", "mse"):
            raise ConfigError(f"linear must be 0 or more and match adm or mse, got {self}")
        if not 0 < self.t_min < 1 or not 0 < self.decide_frac <= 1 or not 0 <= self.caption_drop <= 1:
            raise ConfigError(f"t_min and decide_frac must lie in (0, 1], caption_drop in [0, 1], got {self}")


class LinVideo(DistillObjective):
    """See ``DistillObjective``."""

    name = "linvideo"

    def __init__(self, setting: Setting, config: LinVideoConfig) -> None:
        super().__init__(setting)
        self.config = config
        with setting.roles.acting(STUDENT) as network:
            self.mixed = MixedLayers(network)
        if config.linear > len(self.mixed.layers):
            raise ConfigError(f"of {len(self.mixed.layers)} attention layers {config.linear} cannot be linear")
        self.modules = {"mixed": (STUDENT, nn.ModuleList(self.mixed.layers.values()))}

    def loss(self, turn: str, step: int, generator: torch.Generator) -> torch.Tensor:
        """Matching, and the choice until it is made."""
        self.settle(step)
        x, tau, text = self.point(generator)
        velocity = self.student(x, tau, text)
        if self.config.match == "mse":
            with torch.no_grad():
                target = self.setting.velocity(TEACHER, x, tau, text, guided=False)
            loss = F.mse_loss(velocity, target)
        else:
            loss = self.anytime(x - per_sample(tau, x) * velocity, text, generator)
        return loss if self.decided(step) else loss + self.config.choice_weight * self.choice(step)

    def anytime(self, data: torch.Tensor, text: Condition, generator: torch.Generator) -> torch.Tensor:
        """ADM's surrogate: its gradient by the sample x_t is ((1 - t) / t) (u_teacher - u_student) / elements."""
        drawn = torch.rand(len(data), generator=generator)
        t = (self.config.t_min + (1 - self.config.t_min) * drawn).to(data.device)
        x = torch.lerp(data, self.setting.noise(len(data), generator), per_sample(t, data))
        with torch.no_grad():
            teachers = self.setting.velocity(TEACHER, x, t, text, guided=False)
            own = self.student(x, t, text)
            direction = per_sample((1 - t) / t, x) * (teachers - own)
        return (direction * x).mean()

    def choice(self, step: int) -> torch.Tensor:
        """Both losses of the layers' shares."""
        done = min(1.0, step / max(1, self.setting.iterations * self.config.decide_frac))
        power = self.config.power_start + done * (self.config.power_end - self.config.power_start)
        shares = self.mixed.shares()
        return count_loss(shares, self.config.linear) + decisiveness_loss(shares, power)

    def decided(self, step: int) -> bool:
        """Whether the layers are fixed at this step."""
        return step >= self.config.decide_frac * self.setting.iterations

    def settle(self, step: int) -> None:
        """Fix the layers once, when it is time, or unfix them: a rollback may go behind it."""
        if self.decided(step):
            self.mixed.linear_layers(self.config.linear)
        else:
            for layer in self.mixed.layers.values():
                layer.decided = None

    def acting(self) -> AbstractContextManager[None]:
        """Attention is mixed, or as it was decided."""
        return self.mixed.acting()

    def student(self, x: torch.Tensor, t: torch.Tensor, text: Condition) -> torch.Tensor:
        """The student's velocity, its attention mixed."""
        with self.mixed.acting():
            return self.setting.velocity(STUDENT, x, t, text, guided=False)

    def point(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, Condition]:
        """Points of the teacher's trajectories, their times and prompts, some of them empty."""
        solved, b, to = self.setting.trajectories, self.setting.batch_size, self.setting.device
        chosen, text = solved.draw(b, generator)
        index = torch.randint(solved.steps, (b,), generator=generator)
        drop = torch.rand(b, generator=generator) < self.config.caption_drop
        text = {name: torch.where(per_sample(drop, rows), solved.empty[name], rows) for name, rows in text.items()}
        x, t = solved.at(chosen, index), solved.sigmas[index]
        return x.to(to), t.to(to), {name: rows.to(to) for name, rows in text.items()}
