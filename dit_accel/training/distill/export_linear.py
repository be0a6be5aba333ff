"""Writes a linearised model as a plan: its adapter, and which layers attend how."""

from pathlib import Path
from typing import Any

from dit_accel.errors import ConfigError
from dit_accel.passes.distilled import DistilledConfig
from dit_accel.passes.linear_attention import LinearAttentionConfig
from dit_accel.plan.config import PassConfig
from dit_accel.plan.plan import AccelerationPlan
from dit_accel.training.distill.objectives.linvideo import LinVideo
from dit_accel.training.distill.objectives.sla import SLAFinetune
from dit_accel.training.distill.roles import STUDENT
from dit_accel.training.distill.trainer import DistillTrainer


def export_linear(trainer: DistillTrainer, folder: Path, *, name: str) -> AccelerationPlan:
    """Write the averaged student of ``linvideo`` or ``sla`` as a plan.

    Args:
        trainer: When it has been trained.
        folder: Where to.
        name: Of the plan.

    Raises:
        ConfigError: The student is a full copy, which a plan cannot hold.
    """
    if not trainer.roles.adapters:
        raise ConfigError("a plan holds adapters, not full copies: train with --rank 1 or more")
    objective: Any = trainer.objective
    config = trainer.roles.config
    scale = (config.alpha or config.rank) / config.rank
    with trainer.averaged():
        weights = {key: p.detach().cpu().half() for key, p in trainer.roles.parameters(STUDENT).items()}
        weights = {key: w * scale if "lora_B" in key and scale != 1 else w for key, w in weights.items()}
        attention: PassConfig
        if isinstance(objective, LinVideo):
            objective.mixed.linear_layers(objective.config.linear)  # decides in a training that was stopped before
            attention = LinearAttentionConfig(weights=objective.mixed.weights())
        else:
            assert isinstance(objective, SLAFinetune)
            attention = objective.training.trained()
    adapter = DistilledConfig(method=objective.name, weights={k: w.clone().contiguous() for k, w in weights.items()})
    plan = AccelerationPlan(name=name, passes=(adapter, attention))
    plan.save_pretrained(folder)
    return plan
