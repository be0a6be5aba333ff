"""Writes a student: an adapter that ``load_lora_weights`` loads, its facts and its card.

The adapter holds the averaged weights in half precision, so what is shipped is what is measured.
"""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file

from dit_accel.errors import ConfigError
from dit_accel.training.distill.backbone import Backbone
from dit_accel.training.distill.card import CARD_FILE, student_card
from dit_accel.training.distill.roles import STUDENT
from dit_accel.training.distill.trainer import DistillTrainer

FORMAT = 1
LORA_FILE, FACTS_FILE, WEIGHTS_FOLDER = "pytorch_lora_weights.safetensors", "student.json", "denoiser"


def export_student(
    trainer: DistillTrainer, pipe: DiffusionPipeline, folder: Path, *, steps: tuple[int, ...], more: dict[str, Any]
) -> Path:
    """Write the averaged student.

    Args:
        trainer: When it has been trained.
        pipe: The teacher's pipeline.
        folder: Where to.
        steps: Numbers of steps that the student is for.
        more: Facts of the training that its checkpoint does not know.

    Returns:
        The folder: an adapter, or for a full copy the folder ``denoiser`` in diffusers format.
    """
    folder.mkdir(parents=True, exist_ok=True)
    setting: Any = trainer.objective.setting  # type: ignore[attr-defined]
    facts = {
        "format": FORMAT,
        "method": trainer.objective.name,
        "steps": list(steps),
        "guidance_scale": setting.guidance.scale,
        "scheduler": scheduler_of(setting.backbone, renoise=trainer.objective.renoise),
        "sigmas": {str(count): _rounded(setting.backbone.sigmas(count)[:-1]) for count in steps},
        "pipeline": type(pipe).__name__,
        "training": {"steps": trainer.step, "seconds": round(trainer.train_seconds), **_told(trainer), **more},
    }
    with trainer.averaged():
        weights = {name: p.detach().cpu().half() for name, p in trainer.roles.parameters(STUDENT).items()}
    if trainer.roles.adapters:
        prefix = setting.backbone.kind.denoiser_name
        config = trainer.roles.config
        if (config.alpha or config.rank) != config.rank:  # readers take alpha from the rank where no file says it
            scale = (config.alpha or config.rank) / config.rank
            weights = {name: w * scale if "lora_B" in name else w for name, w in weights.items()}
        save_file({f"{prefix}.{name}": w.contiguous() for name, w in weights.items()}, folder / LORA_FILE)
    else:
        with trainer.averaged(), trainer.roles.acting(STUDENT) as network:
            network.save_pretrained(folder / WEIGHTS_FOLDER)  # type: ignore[operator]
    (folder / FACTS_FILE).write_text(json.dumps(facts, indent=2) + "\n")
    card = student_card(facts, folder.name, rank=trainer.roles.config.rank)
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    return folder


def scheduler_of(backbone: Backbone, *, renoise: bool) -> dict[str, Any]:
    """Class and settings of the scheduler that a student of this pipeline is run with.

    Euler's, deterministic or with fresh noise. diffusers' ``FlowMatchEulerDiscreteScheduler`` does both, and is
    given the time shift that the student was trained with, unless that hangs on the number of tokens.
    """
    own: Any = backbone.pipe.scheduler  # type: ignore[attr-defined]
    settings: dict[str, Any] = {"_class_name": "FlowMatchEulerDiscreteScheduler", "stochastic_sampling": renoise}
    return settings if own.config.get("use_dynamic_shifting") else {**settings, "shift": backbone.schedule.shift}


def _told(trainer: DistillTrainer) -> dict[str, Any]:
    """What the card tells of the options, as the checkpoint has them."""
    names = ("trajectories", "batch_size", "rank", "seed", "init", "set")
    return {name: trainer.identity[name] for name in names if trainer.identity[name] not in (None, {})}


def _rounded(sigmas: torch.Tensor) -> list[float]:
    return [round(sigma, 6) for sigma in sigmas.tolist()]


@torch.no_grad()
def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The adapter of a student by the names of :meth:`Roles.parameters`, float32, to go on training from.

    Raises:
        ConfigError: There is none.
    """
    from safetensors.torch import load_file

    file = folder / LORA_FILE
    if not file.is_file():
        raise ConfigError(f"'{folder}' holds no distilled student: it has no {LORA_FILE}")
    return {name.split(".", 1)[1]: weight.float() for name, weight in load_file(file).items()}
