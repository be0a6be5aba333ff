"""The token grid of a live call: how the denoised tokens lie in frames, rows and columns, and where text sits."""

import dataclasses
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
        reference: Tokens of pictures that are only looked at (to edit, to imitate); they stand behind the grid's own.
    """

    frames: int
    rows: int
    columns: int
    text: tuple[int, int] | None = None
    reference: int = 0

    @property
    def num_tokens(self) -> int:
        """Tokens of the image or video that is made, without text and reference pictures."""
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


def _from_latents(family: "Family", model: nn.Module, latents: Any) -> tuple[int, int, int] | None:
    axes: str = family.latent_layout
    if axes == "BNC":
        return None
    if axes == "list":
        axes, latents = "CFHW", latents[0] if isinstance(latents, Sequence) and latents else None
    if not isinstance(latents, torch.Tensor) or latents.dim() != len(axes):
        return None
    sizes = dict(zip(axes, latents.shape, strict=True))
    patch = family.patch(getattr(model, "config", None) or {})
    cells = (sizes.get("F", 1), sizes["H"], sizes["W"])
    frames, rows, columns = (-(-cell // size) for cell, size in zip(cells, patch, strict=True))
    return frames, rows, columns


def _text_span(family: "Family", grid: TokenGrid, call: Mapping[str, Any]) -> tuple[int, int] | None:
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


def grid_from_ids(
    ids: Any, *, frame: int | None = 0, row: int = 1, column: int = 2, picture: int | None = None
) -> TokenGrid | None:
    """The grid (without text) from position ids [N, axes] or [B, N, axes], by their largest values.

    Reads values, so it waits for the device: once a run, at its first call.

    Args:
        ids: Of the image tokens.
        frame: Axis of the frame; ``None`` for images.
        row: Axis of the row.
        column: Axis of the column.
        picture: Axis that tells pictures apart. That of the generated one is 0, reference pictures have larger ones.
    """
    if not isinstance(ids, torch.Tensor) or ids.dim() not in (2, 3) or ids.device.type == "meta":
        return None
    if ids.dim() == 3:
        ids = ids[0]
    reference = 0
    if picture is not None:
        generated = ids[ids[:, picture] == ids[:, picture].amin()]
        reference, ids = len(ids) - len(generated), generated
    largest = [int(value) + 1 for value in ids.amax(dim=0).tolist()]
    frames = 1 if frame is None else largest[frame]
    return TokenGrid(frames=frames, rows=largest[row], columns=largest[column], reference=reference)
