"""Fine-tuning for SLA: flow matching through sparse attention and its linear branch, on the teacher's own samples.

SLA (Zhang et al. 2025, arXiv 2509.24006), §4: the pre-training loss, a few thousand steps. Departs from it: the clean
samples are the ends of the teacher's trajectories, so no data are needed. The projections start at zero, which is
sparse attention alone. Needs a full copy of the network (rank 0) or none: adapters of the student are trained with its
attention, and the teacher is not asked in training.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from dit_accel.errors import ConfigError
from dit_accel.passes.attention.sla import SLAConfig, TrainableSLA, trainable_sla
from dit_accel.training.distill.backbone import per_sample
from dit_accel.training.distill.objectives.base import DistillObjective
from dit_accel.training.distill.objectives.setting import Setting
from dit_accel.training.distill.roles import STUDENT


@dataclass(frozen=True, slots=True, kw_only=True)
class SLAFinetuneConfig:
    """Settings.

    Attributes:
        density: Share of the key blocks that are computed exactly.
        block: Tokens in a block.
        caption_drop: Share of empty prompts.
    """

    density: float = 0.1
    block: int = 32
    caption_drop: float = 0.15

    def __post_init__(self) -> None:
        if not 0 <= self.caption_drop <= 1:
            raise ConfigError(f"caption_drop must lie in [0, 1], got {self.caption_drop}")


class SLAFinetune(DistillObjective):
    """See ``DistillObjective``."""

    name = "sla"

    def __init__(self, setting: Setting, config: SLAFinetuneConfig) -> None:
        super().__init__(setting)
        self.config = config
        with setting.roles.acting(STUDENT) as network:
            self.training: TrainableSLA = trainable_sla(network, SLAConfig(density=config.density, block=config.block))
        self.modules = {"sla": (STUDENT, nn.ModuleList(self.training.layers.values()))}

    def loss(self, turn: str, step: int, generator: torch.Generator) -> torch.Tensor:
        """|v - (eps - x_0)|^2."""
        data, text = self.setting.draw_data(generator)
        b, solved = len(data), self.setting.trajectories
        drop = (torch.rand(b, generator=generator) < self.config.caption_drop).to(data.device)
        empty = {name: rows.to(data.device) for name, rows in solved.empty.items()}
        text = {name: torch.where(per_sample(drop, rows), empty[name], rows) for name, rows in text.items()}
        fraction = torch.rand(b, generator=generator).clamp(1e-3, 1 - 1e-3)
        t = (self.setting.backbone.schedule.times(fraction) / 1000).to(data.device)
        noise = self.setting.noise(b, generator)
        x = torch.lerp(data, noise, per_sample(t, data))
        return F.mse_loss(self.setting.velocity(STUDENT, x, t, text, guided=False), noise - data)
