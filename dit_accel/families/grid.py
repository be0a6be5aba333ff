"""The token grid of a live call: how the denoised tokens lie in frames, rows and columns, and where text sits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from dit_accel.families.base import Family


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenGrid:
    """How one call's tokens are arranged.

    Attributes:
        frames: Token frames; 1 for images.
        rows: Token rows.
        columns: Token columns.
        text: First and one past the last position of the text tokens in the joint sequence that attention sees;
            ``None`` where text is no part of that sequence.
    """

    frames: int
    rows: int
    columns: int
    text: tuple[int, int] | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens of the image or video, without text."""
        return self.frames * self.rows * self.columns

    @property
    def size(self) -> tuple[int, int, int]:
        """Frames, rows and columns."""
        return (self.frames, self.rows, self.columns)


def token_grid(family: "Family", model: nn.Module, call: Mapping[str, Any]) -> TokenGrid | None:
    """The grid of a live call, or ``None`` where the call does not tell.

    Args:
        family: Its ``token_grid`` is asked, if it has one; else the shape of the latents and the patch size tell.
        model: The denoiser.
        call: The arguments of the call by parameter name, the latents first.
    """
    latents = next(iter(call.values()), None)
    if family.token_grid is not None:
        size = family.token_grid(model, call)
    elif family.latent_layout in ("BCHW", "BCFHW", "BFCHW", "list"):
        size = _from_latents(family, model, latents)
    else:
        return None
    if size is None:
        return None
    frames, rows, columns = size
    return TokenGrid(frames=frames, rows=rows, columns=columns, text=_text_span(family, frames * rows * columns, call))


def _from_latents(family: "Family", model: nn.Module, latents: Any) -> tuple[int, int, int] | None:
    axes = family.latent_layout
    if axes == "list":
        axes, latents = "CFHW", latents[0] if isinstance(latents, Sequence) and latents else None
    if not isinstance(latents, torch.Tensor) or latents.dim() != len(axes):
        return None
    sizes = dict(zip(axes, latents.shape, strict=True))
    patch = family.patch(getattr(model, "config", None) or {})
    cells = (sizes.get("F", 1), sizes["H"], sizes["W"])
    frames, rows, columns = (-(-cell // size) for cell, size in zip(cells, patch, strict=True))
    return frames, rows, columns


def _text_span(family: "Family", num_tokens: int, call: Mapping[str, Any]) -> tuple[int, int] | None:
    if family.text not in ("prefix", "suffix"):
        return None
    text = call.get(family.conditioning[0])
    if not isinstance(text, torch.Tensor) or text.dim() < 2:
        return None
    length = text.shape[1]
    return (0, length) if family.text == "prefix" else (num_tokens, num_tokens + length)


def grid_from_ids(ids: Any, *, frame: int | None = 0, row: int = 1, column: int = 2) -> tuple[int, int, int] | None:
    """Frames, rows and columns from position ids [N, axes] or [B, N, axes], by their largest values.

    Reads values, so it waits for the device: once a run, at its first call.
    """
    if not isinstance(ids, torch.Tensor) or ids.dim() not in (2, 3):
        return None
    if ids.dim() == 3:
        ids = ids[0]
    largest = [int(value) + 1 for value in ids.amax(dim=0).tolist()]
    return (1 if frame is None else largest[frame], largest[row], largest[column])
