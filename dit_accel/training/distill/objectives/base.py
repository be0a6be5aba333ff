"""What the trainer needs to know of a method of distillation."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import ClassVar

import torch
from torch import nn

from dit_accel.training.distill.objectives.setting import Setting
from dit_accel.training.distill.roles import STUDENT


class DistillObjective(ABC):
    """A method.

    Args:
        setting: The common ground.

    Attributes:
        name: Its name on the command line.
        roles: Roles of the backbone that it trains, the student first.
        modules: What else it trains, by name (heads of a discriminator, a learned weighting), with the turn at which
            each is stepped: a role's, or one of its own.
        renoise: Whether the student is sampled by adding fresh noise to its estimate of the data, as consistency
            models are; otherwise by Euler's steps.
    """

    name: ClassVar[str]
    roles: ClassVar[tuple[str, ...]] = (STUDENT,)
    renoise: ClassVar[bool] = False

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.modules: Mapping[str, tuple[str, nn.Module]] = {}

    def turns(self, step: int) -> tuple[str, ...]:
        """Who is stepped in this step, in order: names of roles, or of modules that have a turn of their own."""
        return (STUDENT,)

    def acting(self) -> AbstractContextManager[None]:
        """What must hold while the student draws: of a student with other attention, that it is in place."""
        return contextlib.nullcontext()

    @abstractmethod
    def loss(self, turn: str, step: int, generator: torch.Generator) -> torch.Tensor:
        """Loss whose gradient with respect to what ``turn`` trains is wanted; draws everything from the generator."""
