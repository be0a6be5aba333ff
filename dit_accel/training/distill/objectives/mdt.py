"""MDT-dist: the student is the mean velocity from a time to the data; what it implies of the velocity must be the
teacher's.

arXiv 2509.04406. With x_0 = x_t - t phi(x_t, t), differentiating t phi along the flow gives the velocity
u = phi + t dphi/dt. Velocity matching (VM) asks that u be the teacher's on noised data; velocity distillation (VD)
uses the difference on the student's own samples as a difference of scores, so that no critic is needed. Departs from
the authors' code: the derivative is normalised only on request (``normalise``, their ``d_norm``), which the paper does
not mention and which keeps the student close to the flow of many steps at the cost of one-step quality. And both the
derivative and VD grow from nothing, as sCM's tangent does: of a student that begins as the teacher t dphi/dt is more
than twice the velocity, all of it the teacher's own curvature and no difference of scores, which throws it off.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from dit_accel.errors import ConfigError
from dit_accel.training.distill.backbone import Condition, per_sample
from dit_accel.training.distill.jvp import along
from dit_accel.training.distill.objectives.base import DistillObjective
from dit_accel.training.distill.objectives.setting import Setting
from dit_accel.training.distill.roles import STUDENT, TEACHER


@dataclass(frozen=True, slots=True, kw_only=True)
class MDTConfig:
    """Settings.

    Attributes:
        delta: Step in time of the derivative. A network that is told 1000 t is rough in time below a few hundredths.
        continuous: Differentiate exactly in the latents, and over ``delta`` to both sides in time.
        normalise: Divide the derivative by its norm plus 0.1, as the released code does.
        vd_weight: Of VD beside VM, in the end; 0 leaves it out.
        warmup_frac: Share of the training over which the derivative and VD grow to their full size.
        logit_mean: Of the times of VM, sigmoid(mean + normal).
    """

    delta: float = 0.05
    continuous: bool = False
    normalise: bool = False
    vd_weight: float = 1.0
    warmup_frac: float = 0.5
    logit_mean: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.delta < 0.5 or self.vd_weight < 0:
            raise ConfigError(f"delta must lie in (0, 0.5) and vd_weight be 0 or more, got {self}")
        if not 0 <= self.warmup_frac <= 1:
            raise ConfigError(f"warmup_frac must lie in [0, 1], got {self}")


class MDT(DistillObjective):
    """See ``DistillObjective``."""

    name = "mdt"

    def __init__(self, setting: Setting, config: MDTConfig) -> None:
        super().__init__(setting)
        self.config = config

    def loss(self, turn: str, step: int, generator: torch.Generator) -> torch.Tensor:
        """VM, and VD in its share."""
        data, text = self.setting.draw_data(generator)
        share = self.setting.grown(step, self.config.warmup_frac)
        loss = self.velocity_matching(data, text, generator, share)
        if self.config.vd_weight:
            loss = loss + share * self.config.vd_weight * self.velocity_distillation(text, generator, share)
        return loss

    def velocity_matching(
        self, data: torch.Tensor, text: Condition, generator: torch.Generator, share: float = 1.0
    ) -> torch.Tensor:
        """|phi + t sg(dphi/dt) - v|^2 on noised data; of the derivative so much as it has grown to."""
        tau = self.config.logit_mean + torch.randn(len(data), generator=generator)
        t = (self.config.delta + (1 - self.config.delta) * torch.sigmoid(tau)).to(data.device)
        x = torch.lerp(data, self.setting.noise(len(data), generator), per_sample(t, data))
        with torch.no_grad():
            v = self.setting.velocity(TEACHER, x, t, text)
            change = self.derivative(x, t, v, text)
        phi = self.setting.velocity(STUDENT, x, t, text)
        return F.mse_loss(phi, v - share * per_sample(t, x) * change)

    def velocity_distillation(self, text: Condition, generator: torch.Generator, share: float = 1.0) -> torch.Tensor:
        """A loss with the gradient -(u - v) dx'/dtheta at the student's one-step samples x'.

        Of the derivative in u it takes as much as VM does: the rest would be no difference of scores.
        """
        b = self.setting.batch_size
        z, one = self.setting.noise(b, generator), torch.ones(b, device=self.setting.device)
        phi = self.setting.velocity(STUDENT, z, one, text)
        with torch.no_grad():
            sample = z - phi
            t = (self.config.delta + (1 - self.config.delta) * torch.rand(b, generator=generator)).to(z.device)
            x = torch.lerp(sample, self.setting.noise(b, generator), per_sample(t, z))
            v = self.setting.velocity(TEACHER, x, t, text)
            own = self.setting.velocity(STUDENT, x, t, text)
            implied = own + share * per_sample(t, x) * self.derivative(x, t, v, text)
            difference = implied - v
        return distil(phi, difference)

    @torch.no_grad()
    def derivative(self, x: torch.Tensor, t: torch.Tensor, v: torch.Tensor, text: Condition) -> torch.Tensor:
        """dphi/dt along the teacher's flow."""
        if self.config.continuous:

            def phi(y: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
                return self.setting.velocity(STUDENT, y, s, text, exact=True)

            change = along(phi, x, t, v, torch.ones_like(t), time_step=self.config.delta)[1]
        else:
            delta = self.config.delta
            now = self.setting.velocity(STUDENT, x, t, text, exact=True)
            before = self.setting.velocity(STUDENT, x - delta * v, t - delta, text, exact=True)
            change = (now - before) / delta
        if self.config.normalise:
            change = change / (per_sample(change.flatten(1).norm(dim=1), change) + 0.1)
        return change


def distil(phi: torch.Tensor, difference: torch.Tensor) -> torch.Tensor:
    """The code form of VD: mean |difference + phi - sg(phi)|^2 / 2, whose gradient is difference dphi/dtheta."""
    return 0.5 * (difference + phi - phi.detach()).square().mean()
