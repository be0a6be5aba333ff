"""Saves a trained pipeline as a plain diffusers folder with half-precision weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline


def export_pipeline(pipe: DiffusionPipeline, path: Path) -> None:
    """Save the pipeline with half-precision weights, in plain diffusers format.

    The text encoders' configs say float32, so that transformers, which takes the type from the config, loads them in
    the same type as diffusers loads the other parts.

    Args:
        pipe: A float32 pipeline; it is left as it was.
        path: Folder to write; files of a former export are replaced.
    """
    path.mkdir(parents=True, exist_ok=True)
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    masters = {name: {k: v.detach().clone() for k, v in part.state_dict().items()} for name, part in parts.items()}
    try:
        for part in parts.values():
            torch.nn.Module.to(part, torch.float16)  # the models' own `to` warns about an empty list
        pipe.save_pretrained(path, safe_serialization=True)
    finally:
        for name, part in parts.items():
            torch.nn.Module.to(part, torch.float32)
            part.load_state_dict(masters[name])
    for text_config in path.glob("text_encoder*/config.json"):
        _edit_json(text_config, lambda config: config | {"dtype": "float32"})
    for file in path.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
        if file.suffix == ".json":
            _edit_json(file, lambda config: {k: v for k, v in config.items() if k != "_name_or_path"})


def _edit_json(path: Path, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path.write_text(json.dumps(edit(json.loads(path.read_text())), indent=2) + "\n")
