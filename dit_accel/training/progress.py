"""Remembers which stages of a run are finished, so that the next call skips them without loading anything.

A finished stage leaves ``STAGE.done.json`` in the run folder with a digest of the recipe. When the recipe changes,
the stage is taken up again from its checkpoint.
"""

import dataclasses
import hashlib
import json
from pathlib import Path

from dit_accel.training.recipe import EmbeddedRecipe

STAGES = ("vae", "warmup", "denoiser", "guidance", "decoder")
"""Stages of training, in order; each reads what the earlier ones left."""

STEPS = (*STAGES, "export", "measure")
"""Stages, then what is done with the finished pipeline."""

# What changes neither weights nor folder.
_IRRELEVANT = ("save_minutes", "sample_minutes", "log_steps")


def is_done(recipe: EmbeddedRecipe, step: str, run_dir: Path) -> bool:
    """Say whether one of ``STEPS`` is finished for this recipe; a stage that the recipe lacks always is."""
    if step in STAGES and getattr(recipe, f"{step}_loop") is None:
        return True
    try:
        found = json.loads(_marker(step, run_dir).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return bool(found["recipe"] == _digest(recipe, step))


def mark_done(recipe: EmbeddedRecipe, step: str, run_dir: Path) -> None:
    """Note that one of ``STEPS`` is finished and its results are saved."""
    if step in STAGES and getattr(recipe, f"{step}_loop") is None:
        return
    run_dir.mkdir(parents=True, exist_ok=True)
    _marker(step, run_dir).write_text(json.dumps({"recipe": _digest(recipe, step)}) + "\n")


def forget_from(step: str, run_dir: Path) -> None:
    """Note that one of ``STEPS`` is being done again: it and the later ones are not finished."""
    for later in STEPS[STEPS.index(step) :]:
        _marker(later, run_dir).unlink(missing_ok=True)


def pending(recipe: EmbeddedRecipe, run_dir: Path) -> list[str]:
    """The stages that are not finished, in order."""
    return [stage for stage in STAGES if not is_done(recipe, stage, run_dir)]


def _marker(step: str, run_dir: Path) -> Path:
    return run_dir / f"{step}.done.json"


def _digest(recipe: EmbeddedRecipe, step: str) -> str:
    fields = dataclasses.asdict(recipe)
    if fields["erw"] is None:  # so were the recipes of runs that were made before there was any
        del fields["erw"]
    for stage in STAGES:
        loop = fields.pop(f"{stage}_loop")
        if stage == step:
            fields["loop"] = {key: value for key, value in loop.items() if key not in _IRRELEVANT}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
