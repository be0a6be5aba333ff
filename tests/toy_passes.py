"""Small passes that change something else than a schedule, to test what the runtime can host."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from dit_accel.passes.base import PASSES, Pass
from dit_accel.plan.config import CONFIGS, PassConfig
from dit_accel.runtime.call import Effect
from dit_accel.runtime.denoiser import DenoiserRuntime


class Scaled(nn.Module):
    """A linear layer with its output scaled."""

    def __init__(self, linear: nn.Module, factor: float) -> None:
        super().__init__()
        self.inner = linear
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) * self.factor


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleConfig(PassConfig):
    """Scale the output projection of the denoiser: something else than a schedule, that shows in the picture."""

    type_name: ClassVar[str] = "scale"

    factor: float = 1.25
    path: str = "proj_out"


def apply_scale(runtime: DenoiserRuntime, config: ScaleConfig) -> None:
    denoiser = runtime.target.denoiser
    scaled = Scaled(getattr(denoiser, config.path), config.factor)
    runtime.ledger.set(denoiser, config.path, scaled, by="scale")


def scale_pass(**fields: Any) -> Pass[ScaleConfig]:
    made: dict[str, Any] = {
        "config": ScaleConfig,
        "summary": "scales",
        "phase": "modules",
        "example": ScaleConfig,
        "apply": apply_scale,
        "effect": lambda runtime, config: Effect(what="outputs scaled", planned_frac=1.0, actual_frac=1.0),
    }
    return Pass(**{**made, **fields})


@contextlib.contextmanager
def registered(acceleration: Pass[Any]) -> Iterator[Callable[..., PassConfig]]:
    """Within the block plans may name this pass; yields its config class."""
    with (
        PASSES.temporarily(acceleration.name, acceleration),
        CONFIGS.temporarily(acceleration.name, acceleration.config),
    ):
        yield acceleration.config
