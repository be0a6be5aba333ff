"""A recording on disk: each tensor a safetensors file, mapped into memory and not read into it.

RAM holds one evaluation at a time, however long the run and however large the model: what is read is the file's pages,
which the system drops when it needs the room. Worker processes map the same files. The folder can be deleted at any
time; the pipeline draws it anew then.

On disk, bytes: (2 T + 1) x B x latent elements x bytes of an element, for T evaluations of B prompts; outputs go when
the Gram matrix is made, which leaves (T + 1) x B x elements x bytes.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dit_accel.calibration.recording import Recording
from dit_accel.errors import ConfigError
from dit_accel.evaluation.progress_files import read_json, write_json
from dit_accel.plan.conditions import Conditions
from dit_accel.plan.file import ConditionsFile

SAID = "recording.json"


class Store:
    """The files of one recording.

    Args:
        folder: Of the recording; its own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Write a tensor; returns it as the file holds it, on the CPU.

        Raises:
            ConfigError: It cannot be written.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file({name: tensor.detach().cpu().contiguous()}, self._path(name))
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"cannot write '{self._path(name)}': {error}. Make room, and run it again") from error
        return self.mapped(name)

    def mapped(self, name: str) -> torch.Tensor:
        """A tensor that was kept, mapped."""
        from safetensors import safe_open

        with safe_open(self._path(name), framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor

    def drop(self, start: str) -> None:
        """Delete what is called so."""
        for path in self.folder.glob(f"{start}*.safetensors"):
            path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


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
