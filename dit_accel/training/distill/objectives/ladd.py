"""LADD: a discriminator of heads on the frozen teacher tells the teacher's samples from the student's, both noised
again.

Sauer et al. 2024 (arXiv 2403.12015), as in SANA-Sprint (arXiv 2503.09641, §3.3): noise levels of the discriminator are
drawn around strong noise, the student's sample starts at pure noise with probability ``max_time_frac`` ("max-time
weighting"), and real latents with other captions are fakes, too. One-step samples come straight from the student; the
real ones are the ends of the teacher's trajectories, so no data are needed.
"""

from dataclasses import dataclass

import torch
from torch import nn

from dit_accel.errors import ConfigError
from dit_accel.training.distill.backbone import Condition
from dit_accel.training.distill.heads import Head, Trunk, hinge_critic, hinge_student
from dit_accel.training.distill.objectives.base import DistillObjective
from dit_accel.training.distill.objectives.setting import Setting
from dit_accel.training.distill.roles import STUDENT, TEACHER
from dit_accel.training.distill.trigflow import HALF_PI, data_estimate, draw_angles, noised, to_trig

HEADS = "heads"


@dataclass(frozen=True, slots=True, kw_only=True)
class LADDConfig:
    """Settings.

    Attributes:
        blocks: After which blocks the heads sit; empty: four evenly spread.
        channels: Of a head; 0: as wide as the tokens.
        mean: Of tau of the discriminator's noise, see ``trigflow.draw_angles``.
        std: Of tau.
        student_mean: Of tau of the student's input.
        student_std: Of tau.
        sigma_data: Of both.
        max_time_frac: Share of the student's inputs that are pure noise.
        misaligned: Whether real latents with the next caption of the batch are shown as fakes; there is none in a
            batch of one.
        seed: Of the heads' first weights.
    """

    blocks: tuple[int, ...] = ()
    channels: int = 0
    mean: float = -0.6
    std: float = 1.0
    student_mean: float = 0.2
    student_std: float = 1.6
    sigma_data: float = 0.5
    max_time_frac: float = 0.5
    misaligned: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.max_time_frac <= 1 or self.channels < 0:
            raise ConfigError(f"max_time_frac must lie in [0, 1] and channels be 0 or more, got {self}")
        object.__setattr__(self, "blocks", tuple(self.blocks))


class LADD(DistillObjective):
    """See ``DistillObjective``."""

    name = "ladd"
    renoise = True

    def __init__(self, setting: Setting, config: LADDConfig) -> None:
        super().__init__(setting)
        self.config = config
        self.trunk = Trunk(setting.backbone.denoiser, config.blocks)
        widths = self._widths()
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            heads = nn.ModuleList(Head(width, config.channels or width) for width in widths)
        self.heads = heads.to(setting.device)
        self.modules = {HEADS: (HEADS, self.heads)}

    def turns(self, step: int) -> tuple[str, ...]:
        """The student, then the heads."""
        return (STUDENT, HEADS)

    def loss(self, turn: str, step: int, generator: torch.Generator) -> torch.Tensor:
        """Hinge losses of either."""
        data, text = self.setting.draw_data(generator)
        return self.adversarial(turn, data, text, generator)

    def adversarial(self, turn: str, data: torch.Tensor, text: Condition, generator: torch.Generator) -> torch.Tensor:
        """The student's or the heads' part."""
        if turn == STUDENT:
            return hinge_student(self.logits(self.sample(data, text, generator), text, generator))
        with torch.no_grad():
            fake = self.sample(data, text, generator)
        real_logits = self.logits(data, text, generator)
        fakes = [self.logits(fake, text, generator)]
        if self.config.misaligned and len(data) > 1:  # of one alone the next caption is its own
            fakes.append(self.logits(data.roll(1, dims=0), text, generator))
        return hinge_critic(real_logits, torch.cat(fakes))

    def sample(self, data: torch.Tensor, text: Condition, generator: torch.Generator) -> torch.Tensor:
        """The student's estimate of the data from noised data, or from noise alone."""
        t = self.student_angles(len(data), generator).to(data.device)
        y = noised(data, self.setting.noise(len(data), generator), t)
        return data_estimate(y, t, to_trig(lambda x, s: self.setting.velocity(STUDENT, x, s, text))(y, t))

    def student_angles(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Angles of the student's inputs, float32 [B]."""
        c = self.config
        t = draw_angles(count, generator, mean=c.student_mean, std=c.student_std, sigma_data=c.sigma_data)
        return torch.where(torch.rand(count, generator=generator) < c.max_time_frac, torch.tensor(HALF_PI), t)

    def logits(self, data: torch.Tensor, text: Condition, generator: torch.Generator) -> torch.Tensor:
        """Logits of data noised anew, [B, all tokens of all heads]."""
        c = self.config
        t = draw_angles(len(data), generator, mean=c.mean, std=c.std, sigma_data=c.sigma_data).to(data.device)
        y = noised(data, self.setting.noise(len(data), generator), t)
        with self.trunk.reading() as tokens:
            to_trig(lambda x, s: self.setting.velocity(TEACHER, x, s, text, guided=False))(y, t)
        return torch.cat([head(part) for head, part in zip(self.heads, tokens, strict=True)], dim=1)

    @torch.no_grad()
    def _widths(self) -> list[int]:
        data, text = self.setting.draw_data(torch.Generator().manual_seed(0))
        with self.trunk.reading() as tokens:
            self.setting.velocity(TEACHER, data, torch.full((len(data),), 0.5, device=data.device), text, guided=False)
        return [part.shape[-1] for part in tokens]
