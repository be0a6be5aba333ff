"""The token grid of a live call: from what the family says, else from the shape of the latents."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from dit_accel.families.base import Family, config_of
from dit_accel.families.tokens import TokenGrid


def token_grid(family: Family, model: nn.Module, call: Mapping[str, Any]) -> TokenGrid | None:
    """The grid of a live call, or ``None`` where the call does not tell.

    Args:
        family: Its ``token_grid`` is asked, if it has one; else the shape of the latents and the patch size tell.
        model: The denoiser.
        call: The arguments of the call by parameter name, the latents first.
    """
    if family.token_grid is not None:
        found = family.token_grid(model, call)
    else:
        found = _from_latents(family, model, next(iter(call.values()), None))
    if found is None:
        return None
    if not isinstance(found, TokenGrid):
        frames, rows, columns = found
        found = TokenGrid(frames=frames, rows=rows, columns=columns)
    return found if found.text is not None else dataclasses.replace(found, text=_text_span(family, found, call))


def _from_latents(family: Family, model: nn.Module, latents: Any) -> tuple[int, int, int] | None:
    axes: str = family.latent_layout
    if axes == "BNC":
        return None
    if axes == "list":
        axes, latents = "CFHW", latents[0] if isinstance(latents, Sequence) and latents else None
    if not isinstance(latents, torch.Tensor) or latents.dim() != len(axes):
        return None
    sizes = dict(zip(axes, latents.shape, strict=True))
    patch = family.patch(config_of(model))
    cells = (sizes.get("F", 1), sizes["H"], sizes["W"])
    frames, rows, columns = (-(-cell // size) for cell, size in zip(cells, patch, strict=True))
    return frames, rows, columns


def _text_span(family: Family, grid: TokenGrid, call: Mapping[str, Any]) -> tuple[int, int] | None:
    if family.text not in ("prefix", "suffix"):
        return None
    text = call.get(family.conditioning[0])
    if not isinstance(text, torch.Tensor) or text.dim() < 2:
        return None
    # Other sequences of the conditioning (an image's, a second encoder's) join the first; pooled vectors do not.
    others = (call.get(name) for name in family.conditioning[1:])
    length = text.shape[1] + sum(x.shape[1] for x in others if isinstance(x, torch.Tensor) and x.dim() == 3)
    image = grid.num_tokens + grid.reference
    return (0, length) if family.text == "prefix" else (image, image + length)
