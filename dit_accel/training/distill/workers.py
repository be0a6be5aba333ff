"""Several processes that train together, through accelerate; one process alone needs nothing of it.

Gradients are averaged here instead of by DistributedDataParallel: the trainer calls networks as they are, because
``torch.func.jvp`` cannot see through its wrapper, and steps several sets of parameters in turn.
"""

import time
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
    def from_environment(cls, device: str = "auto") -> "Workers":
        """As ``accelerate launch`` or ``torchrun`` started this process.

        Args:
            device: Where it is to train. Accelerate must be told of a CPU: otherwise each process takes itself for the
                only one.
        """
        import os

        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        from accelerate import Accelerator

        return cls(Accelerator(cpu=device == "cpu" or not torch.accelerator.is_available()))

    def device(self, name: str) -> str:
        """Where this process trains: the device asked for, or its own GPU among several."""
        if self._accelerator is None or name != "auto":
            return name
        own: torch.device = self._accelerator.device
        return own.type if own.type == "cpu" else str(own)

    @property
    def rank(self) -> int:
        """Number of this process."""
        return 0 if self._accelerator is None else int(self._accelerator.process_index)

    @property
    def is_main(self) -> bool:
        """Whether this one writes the files."""
        return self.rank == 0

    @property
    def count(self) -> int:
        """How many there are."""
        return 1 if self._accelerator is None else int(self._accelerator.num_processes)

    def clock(self) -> float:
        """Seconds, on the first process' clock."""
        return self.first(time.monotonic())

    def first(self, value: float) -> float:
        """A number as the first process has it: what hangs on it must be decided alike, or they wait for ever."""
        if self._accelerator is None:
            return value
        from accelerate.utils import broadcast

        told = torch.tensor([value], dtype=torch.float64, device=self._accelerator.device)
        return float(broadcast(told, from_process=0))

    def average(self, parameters: Sequence[nn.Parameter], loss: torch.Tensor) -> float:
        """Average gradients over all processes, in one message; returns the mean of their losses.

        A parameter that has none in any process keeps none: with one of zero its momentum would move it on.
        """
        if self._accelerator is None:
            return loss.item()
        has = torch.tensor([p.grad is not None for p in parameters], dtype=loss.dtype, device=loss.device)
        flat = torch.cat([*(_gradient(p).reshape(-1) for p in parameters), has, loss.detach().reshape(1)])
        flat = self._accelerator.reduce(flat, reduction="mean")
        *parts, has, mean = flat.split([*(p.numel() for p in parameters), len(parameters), 1])
        for parameter, part, share in zip(parameters, parts, has.tolist(), strict=True):
            parameter.grad = part.view_as(parameter) if share > 0 else None
        return float(mean.item())

    def wait(self) -> None:
        """Until all have come here."""
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()


def _gradient(parameter: nn.Parameter) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
