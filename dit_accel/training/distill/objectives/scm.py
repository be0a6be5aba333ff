"""sCM: continuous-time consistency distillation in TrigFlow's coordinates.

Lu & Song 2024, "Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models", Algorithm 1, as SANA-Sprint
(arXiv 2503.09641, §3.2) uses it on a flow-matching teacher: the tangent is multiplied by cos t sin t before it goes
into the network (their rearrangement), normalised by its norm plus 0.1, and warmed up. Departs from SANA-Sprint's
code: the learned weight is a small network of the angle itself, rather than a layer on the time embedding of the
flow's time; the prior weight 1 / tan t is held below ``max_weight``; and the derivative in the angle is a difference
over a wide step, because the teacher is told 1000 t and was not fine-tuned to a smooth embedding, as theirs was.
"""

from dataclasses import dataclass

import torch
from torch import nn

from dit_accel.errors import ConfigError
from dit_accel.training.distill.backbone import Condition, per_sample
from dit_accel.training.distill.jvp import TIME_STEP, Mode, along, without_checkpointing
from dit_accel.training.distill.objectives.base import DistillObjective
from dit_accel.training.distill.objectives.setting import Setting
from dit_accel.training.distill.roles import STUDENT, TEACHER
from dit_accel.training.distill.trigflow import HALF_PI, draw_angles, noised, to_trig


@dataclass(frozen=True, slots=True, kw_only=True)
class SCMConfig:
    """Settings.

    Attributes:
        mean: Of tau in t = arctan(e^tau / sigma_data).
        std: Of tau.
        sigma_data: See ``mean``; latents themselves are in its units.
        warmup_frac: Share of the training over which the tangent's second part grows to its full size. SANA-Sprint's
            4000 of 20 000 steps; in a short training its 4000 would leave next to nothing but the teacher's velocity.
        normaliser: Added to the tangent's norm; the papers' c.
        max_weight: Bound of the prior weight.
        derivative: How the network is differentiated, see ``jvp.along``.
        time_step: Half the width of the difference that is its derivative in the angle; 0 differentiates exactly,
            for a teacher that was made smooth in time before.
    """

    mean: float = 0.2
    std: float = 1.6
    sigma_data: float = 0.5
    warmup_frac: float = 0.2
    normaliser: float = 0.1
    max_weight: float = 20.0
    derivative: Mode = "auto"
    time_step: float = TIME_STEP

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_frac <= 1:
            raise ConfigError(f"warmup_frac must lie in [0, 1], got {self}")
        if self.std <= 0 or self.sigma_data <= 0 or self.normaliser <= 0 or self.max_weight <= 0:
            raise ConfigError(f"std, sigma_data, normaliser and max_weight must be positive, got {self}")
        if not 0 <= self.time_step < HALF_PI / 2:
            raise ConfigError(f"time_step must lie in [0, pi/4), got {self.time_step}")


class LearnedWeight(nn.Module):
    """Log variance of the loss at an angle, learned along with the student; 0 at the start."""

    def __init__(self, features: int = 32) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.arange(1, features // 2 + 1).float())
        self.last = nn.Linear(features, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        """float32 [B]."""
        phases = t[:, None] * self.frequencies  # type: ignore[operator]
        found: torch.Tensor = self.last(torch.cat([phases.sin(), phases.cos()], dim=1))
        return found[:, 0]


class SCM(DistillObjective):
    """See ``DistillObjective``."""

    name = "scm"
    renoise = True

    def __init__(self, setting: Setting, config: SCMConfig) -> None:
        super().__init__(setting)
        self.config = config
        self.weight = LearnedWeight().to(setting.device)
        self.modules = {"weight": (STUDENT, self.weight)}

    def loss(self, turn: str, step: int, generator: torch.Generator) -> torch.Tensor:
        """The consistency loss."""
        data, text = self.setting.draw_data(generator)
        return self.consistency(data, text, step, generator)

    def consistency(self, data: torch.Tensor, text: Condition, step: int, generator: torch.Generator) -> torch.Tensor:
        """Weighted |F - sg(F) - g|^2."""
        c = self.config
        t = draw_angles(len(data), generator, mean=c.mean, std=c.std, sigma_data=c.sigma_data).to(data.device)
        y = noised(data, self.setting.noise(len(data), generator), t)
        _, g = self.tangent(y, t, text, step)
        field = to_trig(lambda x, s: self.setting.velocity(STUDENT, x, s, text))(y, t)
        # The value of F differs between the two forward passes by autocast's rounding, so g is moved to this pass's.
        prior = (1 / t.tan().clamp_min(1e-6)).clamp(max=c.max_weight) / c.sigma_data
        log_variance = self.weight(t)
        error = (field - field.detach() - g).flatten(1).square().mean(1)
        loss: torch.Tensor = (prior * (-log_variance).exp() * error + log_variance).mean()
        return loss

    @torch.no_grad()
    def tangent(
        self, y: torch.Tensor, t: torch.Tensor, text: Condition, step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """F without a gradient, and the normalised g: the step that F should take."""
        cos, sin = per_sample(t.cos(), y), per_sample(t.sin(), y)
        flow = to_trig(lambda x, s: self.setting.velocity(TEACHER, x, s, text))(y, t)
        student = to_trig(lambda x, s: self.setting.velocity(STUDENT, x, s, text, exact=True))
        with self.setting.roles.acting(STUDENT) as network, without_checkpointing(network):
            value, change = along(
                student, y, t, cos * sin * flow, t.cos() * t.sin(),
                mode=self.config.derivative, time_step=self.config.time_step, last_time=HALF_PI,
            )  # fmt: skip
        share = self.setting.grown(step, self.config.warmup_frac)
        g = -cos.square() * (value - flow) - share * (cos * sin * y + change)
        norm = per_sample(g.flatten(1).norm(dim=1), g)
        return value, torch.nan_to_num(g / (norm + self.config.normaliser))
