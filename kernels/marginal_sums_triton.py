"""Total minus what the table reads, in Triton: one block's vector after the other is taken off one in registers."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from dit_accel.kernels.block_sparse_launch import INTERPRETED, accumulated, for_all

TILE = 1024
"""Features of a program: small enough that a head's vectors, read again and again, are met in L2."""


@triton.jit
def marginal_sums_kernel(
    x_ptr,
    total_ptr,
    out_ptr,
    lut_ptr,
    counts_ptr,
    x_stride_b,
    x_stride_h,
    x_stride_m,
    x_stride_f,
    lut_stride_b,
    lut_stride_h,
    lut_stride_m,
    counts_stride_b,
    counts_stride_h,
    num_heads,
    num_key_blocks,
    num_features,
    num_rows,
    scale,
    TILE_F: tl.constexpr,
    ACC: tl.constexpr,
):
    """One tile of features of one row. Grid: (Mq * tiles, B * H), rows of a tile next to each other.

    ``total`` [B * H, F] and ``out`` [B, H, Mq, F] contiguous.
    """
    row = tl.program_id(0) % num_rows
    tile = tl.program_id(0) // num_rows
    batch = (tl.program_id(1) // num_heads).to(tl.int64)
    head = (tl.program_id(1) % num_heads).to(tl.int64)
    pair = tl.program_id(1).to(tl.int64)
    features = tile * TILE_F + tl.arange(0, TILE_F)
    is_feature = features < num_features
    count = tl.load(counts_ptr + batch * counts_stride_b + head * counts_stride_h + row)
    lut_row = lut_ptr + batch * lut_stride_b + head * lut_stride_h + row * lut_stride_m
    x_base = x_ptr + batch * x_stride_b + head * x_stride_h + features * x_stride_f
    left = tl.load(total_ptr + pair * num_features + features, mask=is_feature, other=0.0)
    for turn in range(count):
        block = tl.load(lut_row + turn).to(tl.int64)
        left -= tl.load(x_base + block * x_stride_m, mask=is_feature, other=0.0).to(ACC)
    # What rounding leaves of nothing is not nothing, and would be divided by nothing.
    left = tl.where(count == num_key_blocks, 0.0, left)
    place = (pair * num_rows + row) * num_features + features
    tl.store(out_ptr + place, (left * scale).to(out_ptr.dtype.element_ty), mask=is_feature)


def run(x: Tensor, lut: Tensor, counts: Tensor, scale: float) -> Tensor:
    """[B, H, Mq, F] of x [B, H, Mk, F]; see :func:`dit_accel.kernels.marginal_sums.marginal_sums`."""
    batch, heads, num_key_blocks, features = x.shape
    rows = counts.shape[-1]
    dtype = accumulated(x.dtype)
    # Of the stored vectors: what is taken off later has been part of it to the last bit.
    total = x.sum(-2, dtype=dtype).contiguous()
    out = torch.empty(batch, heads, rows, features, dtype=dtype if INTERPRETED else x.dtype, device=x.device)
    lut, counts = for_all(lut, counts, batch, heads)
    tile = min(TILE, triton.next_power_of_2(features))
    marginal_sums_kernel[(rows * triton.cdiv(features, tile), batch * heads)](
        *(x, total, out, lut, counts, *x.stride(), *lut.stride()[:3], *counts.stride()[:2]),
        *(heads, num_key_blocks, features, rows, scale),
        TILE_F=tile,
        ACC=tl.float64 if x.dtype == torch.float64 else tl.float32,
        num_warps=4,
    )
    return out.to(x.dtype)
