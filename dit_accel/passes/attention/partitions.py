"""Cutting a video's tokens into boxes: along time, along space, along both, as VMoBA's layers do in turn."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch

from dit_accel.kernels.gather_pairs import KeyBlocks
from dit_accel.passes.attention.choosing import CACHED
from dit_accel.passes.attention.layout import TokenLayout

TIMES, ROWS, COLUMNS = 7, 6, 4
"""Boxes along each axis in the published setting at 480p (21 x 30 x 52 tokens in boxes of 3, 5 and 13)."""
TIMES_OF_BOTH = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """The size of a box: frames, rows and columns. Boxes at the far ends are as large as what is left."""

    frames: int
    rows: int
    columns: int

    def blocks_of(self, layout: TokenLayout) -> torch.Tensor:
        """int64 [N]: the box of each token of the sequence; text is one more block, the last one."""
        sizes = (self.frames, self.rows, self.columns)
        axes = [torch.arange(length) // size for length, size in zip(layout.size, sizes, strict=True)]
        counts = [int(axis[-1]) + 1 for axis in axes]
        boxes = axes[0][:, None, None] * counts[1] * counts[2] + axes[1][:, None] * counts[2] + axes[2]
        if layout.text is None:
            return boxes.flatten()
        text = torch.full((layout.text[1] - layout.text[0],), math.prod(counts))
        return torch.cat([text, boxes.flatten()] if layout.text[0] == 0 else [boxes.flatten(), text])


def boxes_of(
    size: tuple[int, int, int],
    temporal: int | None,
    spatial: tuple[int, int] | None,
    both: tuple[int, int, int] | None,
) -> tuple[Box, Box, Box]:
    """The boxes that layers take in turn: some frames whole, some of every frame, and both.

    Args:
        size: Frames, rows and columns of the tokens.
        temporal: Frames of a box of the first kind; ``None``: so that there are 7 boxes, where there are as many
            frames.
        spatial: Rows and columns of one of the second kind; ``None``: 6 x 4 boxes.
        both: Frames, rows and columns of one of the third kind; ``None``: 3 x 6 x 4 boxes.
    """
    frames, rows, columns = size
    spatial = spatial or (math.ceil(rows / ROWS), math.ceil(columns / COLUMNS))
    both = both or (math.ceil(frames / TIMES_OF_BOTH), math.ceil(rows / ROWS), math.ceil(columns / COLUMNS))
    return (
        Box(frames=temporal or math.ceil(frames / TIMES), rows=rows, columns=columns),
        Box(frames=frames, rows=spatial[0], columns=spatial[1]),
        Box(frames=both[0], rows=both[1], columns=both[2]),
    )


@lru_cache(maxsize=CACHED)
@torch.inference_mode(False)
def key_blocks(layout: TokenLayout, box: Box) -> KeyBlocks:
    """The boxes as blocks of keys, and text as one more, on the CPU; made once for all layers and runs."""
    return KeyBlocks.of(box.blocks_of(layout))
