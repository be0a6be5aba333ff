"""Tensors of a recording on disk: each a safetensors file, mapped into memory and not read into it.

RAM holds one evaluation at a time, however long the run and however large the model: what is read is the file's pages,
which the system drops when it needs the room. Worker processes map the same files. The folder can be deleted at any
time; the pipeline draws it anew then.

On disk, bytes: (2 T + 1) x B x latent elements x bytes of an element, for T evaluations of B prompts; outputs go when
the Gram matrix is made, which leaves (T + 1) x B x elements x bytes.
"""

from pathlib import Path

import torch

from dit_accel.errors import ConfigError


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
