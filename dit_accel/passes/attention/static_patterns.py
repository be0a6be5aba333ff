"""Block masks that are known before anything is computed: windows, tiles in three dimensions, frames that fade.

Published rules are in tokens, and give whatever density their numbers give. Here each rule is a distance between
blocks, and every row of blocks keeps its nearest ones: a mask of any density, on any grid, with no row left empty.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from dit_accel.kernels.block_select import best_blocks, kept_of
from dit_accel.kernels.block_table import mask_of
from dit_accel.passes.attention.layout import TokenLayout

Pattern = Literal["window", "tiles", "radial"]
PATTERNS: tuple[Pattern, ...] = ("window", "tiles", "radial")


def static_mask(layout: TokenLayout, pattern: Pattern, *, block: int, density: float) -> Tensor:
    """bool [M, M] over the tokens in :func:`order_of` the pattern: the nearest blocks of each row, and text.

    - ``window``: near in the raster of a frame, whichever frame it is (Re-ttention, 2505.22918).
    - ``tiles``: near in time, height and width, by the further one of the three (sliding tile attention, 2502.04507).
    - ``radial``: near in the raster of a frame, half as far for every doubling of the distance in time; the first
      frame is as near as one's own (radial attention, 2506.19852, which keeps all of that one).

    Args:
        layout: The sequence.
        pattern: The rule.
        block: Tokens in a block.
        density: Share of the blocks without text that a row keeps, at least one.
    """
    places = _centres(layout, pattern, block)  # [M, 3], text at the place of its neighbour in the sequence
    text = [] if layout.text is None else list(range(layout.text[0] // block, -(-layout.text[1] // block)))
    first = text[0] if text else 0
    distance = _distance(places, layout, pattern, block)
    keep = kept_of(density, len(places) - len(text))
    lut = best_blocks(-distance, keep, always=range(first, first + len(text)))
    counts = torch.full(lut.shape[:-1], lut.shape[-1], dtype=torch.int32)
    return layout.with_text(mask_of(lut, counts, len(places)), block)


def order_of(layout: TokenLayout, pattern: Pattern, block: int) -> Tensor | None:
    """int64 [N], the tokens in the order that blocks are cut from; ``None``: that of the model.

    Tiles are cut as FlatFormer (2301.08739) cuts point clouds: tokens are sorted by their box, boxes and the tokens in
    them to and fro, and the line is cut into equal pieces. On a grid that boxes divide these are the boxes; on any
    other one no block is filled up.
    """
    if pattern != "tiles":
        return None
    numbers = torch.arange(layout.num_tokens).view(layout.size)
    axes = torch.meshgrid(*(torch.arange(length) for length in layout.size), indexing="ij")
    sides = tile_sides(layout, block)
    key = torch.zeros(layout.size, dtype=torch.int64)
    boxes = [axis // side for axis, side in zip(axes, sides, strict=True)]
    inside = [axis % side for axis, side in zip(axes, sides, strict=True)]
    counts = [math.ceil(length / side) for length, side in zip(layout.size, sides, strict=True)]
    for place, size in zip((*boxes, *inside), (*counts, *sides), strict=True):
        # To and fro: a line that ends at one side goes on from there, so neighbours in it are neighbours in space.
        key = key * size + torch.where(key % 2 == 1, size - 1 - place, place)
    order = numbers.flatten()[key.flatten().argsort()]
    first = layout.text[1] if layout.text is not None and layout.text[0] == 0 else 0
    whole = torch.arange(layout.length)
    whole[first : first + layout.num_tokens] = first + order
    return whole


def tile_sides(layout: TokenLayout, block: int) -> tuple[int, int, int]:
    """Frames, rows and columns of a box of as many tokens as a block: as near to a cube as the grid lets it be."""
    sides = [1, 1, 1]
    while math.prod(sides) < block:
        free = [axis for axis in range(3) if 2 * sides[axis] <= layout.size[axis]]
        if not free:
            break
        # The shortest side first; time last, since videos have more tokens along a row than along time.
        axis = min(free, key=lambda axis: (sides[axis], axis == 0))
        sides[axis] *= 2
    return sides[0], sides[1], sides[2]


def _centres(layout: TokenLayout, pattern: Pattern, block: int) -> Tensor:
    """fp64 [M, 3]: mean frame, row and column of each block's tokens."""
    order = order_of(layout, pattern, block)
    axes = torch.meshgrid(*(torch.arange(length, dtype=torch.float64) for length in layout.size), indexing="ij")
    places = torch.stack([axis.flatten() for axis in axes], -1)
    if layout.text is not None:
        missing = torch.full((layout.text[1] - layout.text[0], 3), torch.nan, dtype=torch.float64)
        places = torch.cat([missing, places] if layout.text[0] == 0 else [places, missing])
    if order is not None:
        places = places[order]
    return torch.stack([piece.nanmean(0) for piece in places.split(block)]).nan_to_num(0.0)


def _distance(places: Tensor, layout: TokenLayout, pattern: Pattern, block: int) -> Tensor:
    """fp64 [M, M]; equal ones are told apart by the distance in time, so that a row does not favour early frames."""
    _, rows, columns = layout.size
    gap = (places[:, None] - places).abs()
    in_frame = ((places[:, 1] * columns + places[:, 2])[:, None] - (places[:, 1] * columns + places[:, 2])).abs()
    in_frame = in_frame / (rows * columns)
    little = 1e-6 * gap.sum(-1)
    if pattern == "window":
        return in_frame + little
    if pattern == "tiles":
        sides = torch.tensor(tile_sides(layout, block), dtype=torch.float64)
        return (gap / sides).amax(-1) + little
    doublings = (gap[..., 0].round() + 1).log2().floor()  # 0: the same frame, 1: the next two, 2: four further on
    doublings = doublings.masked_fill(places[:, 0] < 0.5, 0.0)  # the first frame is as near as one's own
    return (in_frame + block / (rows * columns)) * 2.0**doublings + little
