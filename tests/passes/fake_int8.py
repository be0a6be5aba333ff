"""A pass of a user's own: every linear layer of the denoiser with int8 weights, as a weight-quantising pass has it."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from dit_accel.passes.base import Pass
from dit_accel.plan.config import PassConfig
from dit_accel.runtime.call import Effect
from dit_accel.runtime.denoiser import DenoiserRuntime

NAME = "fake_int8"


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeInt8Config(PassConfig):
    """Keep linear weights as int8, a scale for each output channel."""

    type_name: ClassVar[str] = NAME

    leave: str = ""  # layers whose path begins so stay as they are


class Int8Linear(nn.Module):
    """A linear layer that multiplies its weight out before it is used."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        whole, scale = quantised(linear.weight.detach())
        self.register_buffer("whole", whole)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.whole.to(x.dtype) * self.scale, self.bias)


def quantised(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 [out, in], and the scale [out, 1]."""
    scale = weight.abs().amax(1, keepdim=True).clamp_min(1e-8) / 127
    return (weight / scale).round().clamp(-127, 127).to(torch.int8), scale


def apply(runtime: DenoiserRuntime, config: FakeInt8Config) -> None:
    denoiser = runtime.target.denoiser
    for path, module in list(denoiser.named_modules()):
        if type(module) is nn.Linear and not (config.leave and path.startswith(config.leave)):
            parent, _, name = path.rpartition(".")
            runtime.ledger.set(denoiser.get_submodule(parent), name, Int8Linear(module), by=NAME)


def effect(runtime: DenoiserRuntime, config: FakeInt8Config) -> Effect:
    now = sum(t.nbytes for t in (*runtime.target.denoiser.parameters(), *runtime.target.denoiser.buffers()))
    mine = [m for m in runtime.target.denoiser.modules() if isinstance(m, Int8Linear)]
    saved = sum(m.whole.numel() * (m.scale.element_size() - 1) - m.scale.nbytes for m in mine)
    frac = saved / (now + saved)
    return Effect(what="weight bytes saved", planned_frac=frac, actual_frac=frac, total=now + saved)


PASS = Pass(
    config=FakeInt8Config,
    summary="keeps linear weights as int8",
    phase="modules",
    claims=frozenset(("replaces linear layers",)),
    example=FakeInt8Config,
    apply=apply,
    effect=effect,
)
