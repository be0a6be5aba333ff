"""How the tokens of one denoiser call lie in frames, rows and columns, and where text sits."""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenGrid:
    """How one call's tokens are arranged.

    Attributes:
        frames: Token frames; 1 for images.
        rows: Token rows.
        columns: Token columns.
        text: First and one past the last position of the text tokens in the joint sequence that attention sees;
            ``None`` where text is no part of that sequence.
        reference: Tokens of pictures that are only looked at (to edit, to imitate); they stand behind the grid's own
            (in front of them in the one call in which FLUX.2 klein stores their keys).
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
