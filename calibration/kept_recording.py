"""The recording of a calibration's folder: drawn once, and found again by calls that go on and by worker processes."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dit_accel.calibration.recording import Recording
from dit_accel.calibration.store import Store
from dit_accel.evaluation.progress_files import read_json, write_json
from dit_accel.plan.conditions import Conditions
from dit_accel.plan.file import ConditionsFile

SAID = "recording.json"


def recorded(
    folder: Path, setup: Mapping[str, Any], draw: Callable[[Recording], None], gram_of: Any, *, outputs: bool
) -> Recording:
    """The recording of a folder, with its Gram matrix; drawn if it is not there whole, or of another set-up.

    Args:
        folder: Of the recording.
        setup: What it depends on and the folder's claim does not say: device and dtype.
        draw: Runs the pipeline into a new recording.
        gram_of: Makes the Gram matrix of one that has outputs.
        outputs: Whether they are needed still.
    """
    found = load(folder, setup)
    if found is not None and (found.outputs or not outputs):
        return found
    shutil.rmtree(folder, ignore_errors=True)
    recording = Recording(store=Store(folder))
    draw(recording)
    assert recording.store is not None
    recording.pictures = recording.store.keep("pictures", recording.pictures)
    recording.gram = recording.store.keep("gram", torch.from_numpy(gram_of(recording))).numpy()
    said = {
        "setup": dict(setup),
        "denoisers": recording.denoisers,
        "levels": list(recording.levels),
        "conditions": asdict(recording.conditions),
    }
    write_json(folder / SAID, said)
    return recording


def load(folder: Path, setup: Mapping[str, Any] | None = None) -> Recording | None:
    """The recording of a folder, whose outputs may be gone; ``None``: there is none that is whole."""
    from safetensors import SafetensorError

    said = read_json(folder / SAID)
    if said is None or (setup is not None and said.get("setup") != json.loads(json.dumps(dict(setup)))):
        return None
    store = Store(folder)
    try:
        steps = len(said["denoisers"])
        return Recording(
            latents=[store.mapped(f"latents-{step:04d}") for step in range(steps + 1)],
            outputs=[store.mapped(path.stem) for path in sorted(folder.glob("outputs-*.safetensors"))],
            denoisers=said["denoisers"],
            levels=tuple(said["levels"]),
            conditions=Conditions(**ConditionsFile.model_validate(said["conditions"]).model_dump()),
            pictures=store.mapped("pictures"),
            gram=store.mapped("gram").numpy(),
            store=store,
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
