"""SANA-Sprint: sCM keeps the student on the teacher's flow, LADD makes its one-step samples look real.

Chen et al. 2025, arXiv 2503.09641: the loss of the student is L_sCM + 0.5 L_adv with separate samples, and the heads
have their turn after it. The transform to TrigFlow is exact, so the student stays a flow-matching network that the
teacher's pipeline runs with fresh noise between steps (see ``docs/distillation.md`` for how that equals diffusers'
SCMScheduler).
"""

from dataclasses import dataclass, field

import torch

from dit_accel.errors import ConfigError
from dit_accel.training.distill.objectives.base import DistillObjective
from dit_accel.training.distill.objectives.ladd import LADD, LADDConfig
from dit_accel.training.distill.objectives.scm import SCM, SCMConfig
from dit_accel.training.distill.objectives.setting import Setting
from dit_accel.training.distill.roles import STUDENT


@dataclass(frozen=True, slots=True, kw_only=True)
class SanaSprintConfig:
    """Settings.

    Attributes:
        scm: Of the consistency loss.
        ladd: Of the discriminator.
        adversarial_weight: Of the student's adversarial loss; the paper's best is 0.5.
    """

    scm: SCMConfig = field(default_factory=SCMConfig)
    ladd: LADDConfig = field(default_factory=LADDConfig)
    adversarial_weight: float = 0.5

    def __post_init__(self) -> None:
        if self.adversarial_weight < 0:
            raise ConfigError(f"adversarial_weight must be 0 or more, got {self.adversarial_weight}")


class SanaSprint(DistillObjective):
    """See ``DistillObjective``."""

    name = "sana-sprint"
    renoise = True

    def __init__(self, setting: Setting, config: SanaSprintConfig) -> None:
        super().__init__(setting)
        self.config = config
        self.scm, self.ladd = SCM(setting, config.scm), LADD(setting, config.ladd)
        self.modules = {**self.scm.modules, **self.ladd.modules}

    def turns(self, step: int) -> tuple[str, ...]:
        """The student, then the heads."""
        return self.ladd.turns(step)

    def loss(self, turn: str, step: int, generator: torch.Generator) -> torch.Tensor:
        """Both losses of the student, or the heads'."""
        data, text = self.setting.draw_data(generator)
        adversarial = self.ladd.adversarial(turn, data, text, generator)
        if turn != STUDENT:
            return adversarial
        return self.scm.consistency(data, text, step, generator) + self.config.adversarial_weight * adversarial
