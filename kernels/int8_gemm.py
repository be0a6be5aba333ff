"""int8 times int8 with the scales and the bias in the epilogue, in Triton; weights of 4 bits are unpacked on the way.

The int32 sums never reach memory, which is what an unfused ``torch._int_mm`` loses on a GPU. The truth is
:func:`dit_accel.kernels.int8_truth.int_matmul` with ``rescale``; the sums are the same integers, and the epilogue is
the same fp32 operations in the same order.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

INTERPRETED = bool(knobs.runtime.interpret)
NIBBLE_GROUPS = (32, 64, 128)
"""Groups of 4-bit weights that have a kernel: a tile of K lies within one group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """What one program computes.

    Attributes:
        rows: Of the output.
        columns: Of the output.
        depth: Of K at a time.
        num_warps: Of a program.
        num_stages: Of the software pipeline.
    """

    rows: int
    columns: int
    depth: int
    num_warps: int
    num_stages: int


def tile_for(rows: int, packed: bool, group: int) -> Tile:
    """A fixed choice, as in the other kernels: nothing is tuned at run time."""
    if packed:
        return Tile(rows=64 if rows < 512 else 128, columns=128, depth=min(64, group), num_warps=8, num_stages=3)
    if rows <= 64:
        return Tile(rows=64, columns=64, depth=64, num_warps=4, num_stages=4)
    return Tile(rows=128, columns=128, depth=64, num_warps=8, num_stages=4)


@triton.jit(do_not_specialize=["num_rows"])
def gemm_kernel(
    a_ptr,
    b_ptr,
    out_ptr,
    row_scale_ptr,
    column_scale_ptr,
    bias_ptr,
    multiplier_ptr,
    zero_ptr,
    num_rows,
    num_columns,
    size,
    b_stride,
    num_groups,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
    BAND: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ONLY_SUMS: tl.constexpr,
):
    """One tile of the output. Grid: (tiles,), in bands of BAND tiles of rows, so that weights stay in L2.

    ``a`` int8 [M, K]; ``b`` int8 [N, K], or with GROUP > 0 uint8 [N, ceil(K / 2)]; all contiguous in K.
    """
    program = tl.program_id(0)
    row_tiles = tl.cdiv(num_rows, ROWS)
    column_tiles = tl.cdiv(num_columns, COLUMNS)
    in_band = BAND * column_tiles
    first = (program // in_band) * BAND
    height = tl.minimum(row_tiles - first, BAND)
    row_tile = first + (program % in_band) % height
    column_tile = (program % in_band) // height

    rows = (row_tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    columns = (column_tile * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
    is_row = rows < num_rows
    is_column = columns < num_columns
    acc = tl.zeros([ROWS, COLUMNS], tl.int32)
    for start in range(0, size, DEPTH):
        depth = start + tl.arange(0, DEPTH)
        a = tl.load(
            a_ptr + rows[:, None] * size + depth[None, :], mask=is_row[:, None] & (depth[None, :] < size), other=0
        )
        inside = is_column[:, None] & (depth[None, :] < size)
        if GROUP == 0:
            b = tl.load(b_ptr + columns[:, None] * b_stride + depth[None, :], mask=inside, other=0)
        else:
            pair = tl.load(b_ptr + columns[:, None] * b_stride + (depth[None, :] // 2), mask=inside, other=0)
            nibble = (pair >> ((depth[None, :] % 2) * 4).to(tl.uint8)) & 15
            group = start // GROUP
            zero = tl.load(zero_ptr + columns * num_groups + group, mask=is_column, other=0).to(tl.int16)
            step = tl.load(multiplier_ptr + columns * num_groups + group, mask=is_column, other=0).to(tl.int16)
            b = tl.where(inside, (nibble.to(tl.int16) - zero[:, None]) * step[:, None], 0).to(tl.int8)
        acc = tl.dot(a, tl.trans(b), acc, out_dtype=tl.int32)

    places = rows[:, None] * num_columns + columns[None, :]
    inside = is_row[:, None] & is_column[None, :]
    if ONLY_SUMS:
        tl.store(out_ptr + places, acc, mask=inside)
    else:
        row_scale = tl.load(row_scale_ptr + rows, mask=is_row, other=0.0)
        column_scale = tl.load(column_scale_ptr + columns, mask=is_column, other=0.0)
        out = acc.to(tl.float32) * row_scale[:, None] * column_scale[None, :]
        if HAS_BIAS:
            out += tl.load(bias_ptr + columns, mask=is_column, other=0.0).to(tl.float32)[None, :]
        tl.store(out_ptr + places, out.to(out_ptr.dtype.element_ty), mask=inside)


def int8_gemm(
    values: Tensor,
    weight: Tensor,
    row_scale: Tensor | None = None,
    column_scale: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    multiplier: Tensor | None = None,
    zero: Tensor | None = None,
    group: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """[M, N] in ``dtype``: int8 rows times a weight, scaled, with a bias; without scales the sums, int32.

    Args:
        values: int8 [M, K].
        weight: int8 [N, K]; with a ``multiplier`` uint8 [N, ceil(K / 2)], see :mod:`dit_accel.kernels.int4_packing`.
        row_scale: fp32 [M, 1].
        column_scale: fp32 [N].
        bias: [N].
        multiplier: uint8 [N, G].
        zero: uint8 [N, G].
        group: Input channels in a group, one of :data:`NIBBLE_GROUPS`.
        dtype: Of the output.

    Raises:
        ValueError: No kernel for such groups.
    """
    rows, size = values.shape
    columns = weight.shape[0]
    packed = multiplier is not None
    if packed and group not in NIBBLE_GROUPS:
        raise ValueError(f"no kernel for groups of {group}; there are {', '.join(map(str, NIBBLE_GROUPS))}")
    sums = row_scale is None
    stored = torch.int32 if sums else torch.float32 if INTERPRETED else dtype
    out = torch.empty(rows, columns, dtype=stored, device=values.device)
    if not rows:
        return out if sums else out.to(dtype)
    tile = tile_for(rows, packed, group)
    nothing = values
    if INTERPRETED and bias is not None:
        bias = bias.float()
    args: tuple[Any, ...] = (values.contiguous(), weight.contiguous(), out, row_scale, column_scale, bias)
    args = (*args, multiplier, zero)
    grid = (triton.cdiv(rows, tile.rows) * triton.cdiv(columns, tile.columns),)
    gemm_kernel[grid](
        *(nothing if each is None else each for each in args),
        *(rows, columns, size, weight.shape[1], 0 if multiplier is None else multiplier.shape[1]),
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        DEPTH=tile.depth,
        GROUP=group if packed else 0,
        BAND=8,
        HAS_BIAS=bias is not None,
        ONLY_SUMS=sums,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        enable_fp_fusion=False,  # the truth rounds the scaled sum before it adds the bias
    )
    return out if sums else out.to(dtype)
