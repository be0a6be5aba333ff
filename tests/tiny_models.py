"""Tiny random denoisers of every family: real diffusers classes, milliseconds on one core."""

from typing import Any

import diffusers
import torch
from tiny_configs import TEXT_TOKENS, TINY
from tiny_video_configs import VIDEO_TINY
from torch import nn

TINY |= VIDEO_TINY
TINY_NAMES = tuple(TINY)
DISCOVERED_NAMES = tuple(name for name, tiny in TINY.items() if tiny.inputs is not None)


def randomise(model: nn.Module, seed: int) -> nn.Module:
    """Give every parameter a random value, so that no zero-initialised gate hides a module from the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1 and not name.endswith("table"):
                parameter.copy_(values / parameter[0].numel() ** 0.5)
            elif name.endswith("weight"):
                parameter.copy_(1 + 0.2 * values)
            else:
                parameter.copy_(0.5 * values)
    return model


def tiny_model(name: str, seed: int = 0) -> nn.Module:
    """A tiny random denoiser in eval mode, without gradients; equal seeds give equal weights."""
    tiny = TINY[name]
    model: nn.Module = getattr(diffusers, tiny.model_class)(**tiny.config)
    return randomise(model, seed).eval().requires_grad_(False)


def tiny_inputs(name: str, model: nn.Module, seed: int = 0, batch: int = 2) -> dict[str, Any]:
    """Keyword arguments of one call of ``tiny_model(name)``; equal seeds give equal values."""
    from dit_accel.families import resolve_family

    tiny = TINY[name]
    if tiny.inputs is not None:
        return tiny.inputs(model, torch.Generator().manual_seed(seed), batch)
    return resolve_family(model).sample_inputs(
        model,
        height_px=tiny.px,
        width_px=tiny.px,
        num_frames=tiny.frames,
        batch=batch,
        text_tokens=TEXT_TOKENS,
        seed=seed,
    )
