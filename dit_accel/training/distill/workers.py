"""Several processes that train together, through accelerate; one process alone needs nothing of it.

Gradients are averaged here instead of by DistributedDataParallel: the trainer calls networks as they are, because
``torch.func.jvp`` cannot see through its wrapper, and steps several sets of parameters in turn.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


class Workers:
    """This process among others.

    Args:
        accelerator: An ``accelerate.Accelerator``; ``None``: alone.
    """

    def __init__(self, accelerator: Any = None) -> None:
        self._accelerator = accelerator

    @classmethod
    def from_environment(cls) -> "Workers":
        """As ``accelerate launch`` or ``torchrun`` started this process."""
        import os

        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        from accelerate import Accelerator

        return cls(Accelerator())

    def device(self, name: str) -> str:
        """Where this process trains: the device asked for, or its own GPU among several."""
        return name if self._accelerator is None or name != "auto" else str(self._accelerator.device)

    @property
    def rank(self) -> int:
        """Number of this process."""
        return 0 if self._accelerator is None else int(self._accelerator.process_index)

    @property
    def is_main(self) -> bool:
        """Whether this one writes the files."""
        return self.rank == 0

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """Average gradients over all processes, in one message."""
        if self._accelerator is None:
            return
        flat = torch.cat([_gradient(p).reshape(-1) for p in parameters])
        flat = self._accelerator.reduce(flat, reduction="mean")
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter)

    def wait(self) -> None:
        """Until all have come here."""
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()


def _gradient(parameter: nn.Parameter) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
