"""Where each process' randomness stands: the first one's in the checkpoint, the others' beside it.

The files of the others carry the number of the save, and the former ones are deleted when the new checkpoint is in its
place, so whichever checkpoint a kill leaves has its files.
"""

import os
from pathlib import Path
from typing import Any

import torch

from dit_accel.training.distill.workers import Workers


def state_of(generator: torch.Generator) -> dict[str, torch.Tensor]:
    """The generator of a training and PyTorch's own."""
    return {"generator": generator.get_state(), "torch_rng": torch.get_rng_state()}


def restore(generator: torch.Generator, state: dict[str, torch.Tensor]) -> None:
    """The opposite of :func:`state_of`."""
    generator.set_state(state["generator"])
    torch.set_rng_state(state["torch_rng"])


class RankDraws:
    """Files of the processes but the first.

    Args:
        checkpoint: The file they belong to.
        workers: Whose.
    """

    def __init__(self, checkpoint: Path, workers: Workers) -> None:
        self.checkpoint, self.workers = checkpoint, workers

    def write(self, save: int, generator: torch.Generator) -> None:
        """Keep this process' state, before the checkpoint of this save is written."""
        if not self.workers.is_main:
            replace(self._file(save), state_of(generator))

    def read(self, save: int) -> dict[str, torch.Tensor] | None:
        """Its state at a save; ``None``: there were fewer processes then."""
        file = self._file(save)
        return torch.load(file, weights_only=True) if file.exists() else None

    def tidy(self, save: int) -> None:
        """Delete this process' files of other saves, after the checkpoint is in its place."""
        for file in self.checkpoint.parent.glob(self._name("*")):
            if file != self._file(save):
                file.unlink(missing_ok=True)

    def _file(self, save: int) -> Path:
        return self.checkpoint.parent / self._name(str(save))

    def _name(self, save: str) -> str:
        return f"{self.checkpoint.name.removesuffix('.ckpt.pt')}.rng{self.workers.rank}-{save}.pt"


def replace(path: Path, state: dict[str, Any]) -> None:
    """Write a file so that it is the former one or the new one."""
    partial = path.with_suffix(".tmp")
    torch.save(state, partial)
    os.replace(partial, path)
