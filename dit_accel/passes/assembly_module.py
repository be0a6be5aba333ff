"""A-SDM's assembled UNet: redundant layers left out, capacity regained by kernels of several experts.

Wang et al. 2024, "A-SDM" (arXiv 2406.00210). Only its abstract was at hand: which layers go, and how experts are
routed, is our design. The second of two equal layers of a level goes, shallow levels first: they cost most and hold
least. What stays of a residual block whose width changes is its shortcut. Experts mix kernels, not outputs (CondConv,
Yang et al. 2019, arXiv 1904.04971): one convolution with the router's sum of kernels costs at batch 1 what one expert
costs. Trained by :mod:`dit_accel.training.distill.assembly_loop`, used by the pass ``unet_switching``.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from dit_accel.errors import ConfigError, UnsupportedModelError

EXPERTS = 4


class PrunedResnet(nn.Module):
    """What is left of a residual block: its shortcut, or nothing.

    Args:
        shortcut: The block's own, where its width changes.
    """

    def __init__(self, shortcut: nn.Module | None) -> None:
        super().__init__()
        self.shortcut = shortcut

    def forward(self, hidden_states: torch.Tensor, temb: Any = None, *more: Any) -> torch.Tensor:
        """[B, C, H, W] to [B, C', H, W]."""
        found: torch.Tensor = hidden_states if self.shortcut is None else self.shortcut(hidden_states)
        return found


class PrunedAttention(nn.Module):
    """What is left of a transformer of a UNet: nothing."""

    def forward(self, hidden_states: torch.Tensor, *more: Any, **named: Any) -> tuple[torch.Tensor]:
        """As diffusers' transformers return with ``return_dict=False``, which is how its UNets call them."""
        return (hidden_states,)


def redundant_layers(unet: nn.Module, levels: int) -> tuple[str, ...]:
    """The layers to leave out: of the ``levels`` shallowest levels the last residual block and transformer each.

    Args:
        unet: diffusers' ``UNet2DConditionModel``.
        levels: How many, from the highest resolution down.

    Raises:
        UnsupportedModelError: It has no blocks as diffusers' UNets have.
        ConfigError: There are fewer levels, or one has a single layer only.
    """
    down, up = getattr(unet, "down_blocks", None), getattr(unet, "up_blocks", None)
    if down is None or up is None:
        raise UnsupportedModelError(f"{type(unet).__name__} has no down_blocks and up_blocks: it is no UNet")
    if not 0 <= levels <= len(down):
        raise ConfigError(f"'levels' must be 0 to {len(down)}, got {levels}")
    names = []
    for level in range(levels):
        for stack, block in (
            (f"down_blocks.{level}", down[level]),
            (f"up_blocks.{len(up) - 1 - level}", up[-1 - level]),
        ):
            last = len(block.resnets) - 1
            if last < 1:
                raise ConfigError(f"'{stack}' has one layer only, which cannot be left out")
            names.append(f"{stack}.resnets.{last}")
            names += [f"{stack}.attentions.{last}"] if hasattr(block, "attentions") else []
    return tuple(names)


def prune(unet: nn.Module, names: Sequence[str]) -> None:
    """Leave layers out of a UNet, in place.

    Raises:
        ConfigError: One is neither a residual block nor a transformer of a UNet, or not there.
    """
    for name in names:
        parent, _, own = name.rpartition(".")
        layer: Any = _layer(unet, name)
        if hasattr(layer, "conv1") and hasattr(layer, "conv2"):
            left: nn.Module = PrunedResnet(layer.conv_shortcut)
        elif hasattr(layer, "transformer_blocks"):
            left = PrunedAttention()
        else:
            raise ConfigError(
                f"'{name}' is a {type(layer).__name__}: only residual blocks and transformers are left out"
            )
        unet.get_submodule(parent)[int(own)] = left  # type: ignore[operator]


def _layer(unet: nn.Module, name: str) -> nn.Module:
    try:
        return unet.get_submodule(name)
    except AttributeError as error:
        raise ConfigError(f"it has no layer '{name}'") from error


class ExpertConv2d(nn.Module):
    """A convolution whose kernel is a sum of experts', weighted for each sample by its own mean features.

    Args:
        conv: What it begins as: every expert is a copy.
        experts: E.
        seed: Of the router's first weights.
    """

    def __init__(self, conv: nn.Conv2d, experts: int = EXPERTS, seed: int = 0) -> None:
        super().__init__()
        if conv.groups != 1 or conv.padding_mode != "zeros" or experts < 1:
            raise ConfigError("experts take an ordinary convolution with zero padding, and one expert at least")
        self.stride, self.padding, self.dilation = conv.stride, conv.padding, conv.dilation
        self.weight = nn.Parameter(conv.weight.detach().repeat(experts, 1, 1, 1, 1))
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().repeat(experts, 1))
        self.router = nn.Linear(conv.in_channels, experts)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            nn.init.normal_(self.router.weight, std=0.02)
        nn.init.zeros_(self.router.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] to [B, C', H', W']."""
        share = self.router(x.mean(dim=(2, 3))).softmax(-1)
        kernels = torch.einsum("be,eoihw->boihw", share, self.weight)
        bias = None if self.bias is None else torch.einsum("be,eo->bo", share, self.bias).flatten()
        batch = len(x)
        together = F.conv2d(
            x.flatten(0, 1)[None], kernels.flatten(0, 1), bias, self.stride, self.padding, self.dilation, groups=batch
        )
        found: torch.Tensor = together[0].unflatten(0, (batch, -1))
        return found


def add_experts(unet: nn.Module, names: Sequence[str], experts: int = EXPERTS) -> None:
    """Give convolutions of a UNet experts, in place.

    Raises:
        ConfigError: One is no ordinary convolution, or not there.
    """
    for number, name in enumerate(names):
        parent, _, own = name.rpartition(".")
        layer = _layer(unet, name)
        if not isinstance(layer, nn.Conv2d):
            raise ConfigError(f"'{name}' is a {type(layer).__name__}, not a convolution")
        setattr(unet.get_submodule(parent), own, ExpertConv2d(layer, experts, seed=number))


def pruned_layers(unet: nn.Module) -> tuple[str, ...]:
    """Names of what :func:`prune` left out of a UNet."""
    return tuple(name for name, layer in unet.named_modules() if isinstance(layer, PrunedResnet | PrunedAttention))


def expert_layers(unet: nn.Module) -> dict[str, int]:
    """Names of the convolutions with experts, and how many each has."""
    return {name: len(layer.weight) for name, layer in unet.named_modules() if isinstance(layer, ExpertConv2d)}
