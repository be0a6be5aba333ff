"""Rows to int8 in one pass over them, in Triton: smoothing, rotation, the row's peak, and rounding.

The truth is :func:`dit_accel.kernels.int8_truth.quantise_rows`, integer for integer: the peak and the division are the
same IEEE operations, and halves are rounded to even by adding and subtracting 1.5 * 2^23, which needs no library and
which no compiler may take away without leave to reorder sums. Nor may it fuse product and sum, which would round once
where the truth rounds twice: both kernels are started without that leave. A maximum passes over NaN on a GPU, so that
a row with one is asked for it, and has the scale NaN. A rotated row is a sum of products, whose order a GPU
chooses, so that there an integer may differ by one where the exact value lies between two.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

from dit_accel.kernels.hadamard import hadamard_matrix
from dit_accel.kernels.int8_truth import SMALLEST_PEAK, largest

INTERPRETED = bool(knobs.runtime.interpret)
_TO_INTEGER = tl.constexpr(12582912.0)  # 1.5 * 2^23: fp32 has no room for a fraction beside it
_WIDEST = 16384  # columns that a program holds at a time


@triton.jit
def quantise_kernel(
    x_ptr,
    values_ptr,
    scale_ptr,
    smooth_ptr,
    matrix_ptr,
    stride_row,
    num_columns,
    top,
    smallest,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_SMOOTH: tl.constexpr,
):
    """One row. Grid: (M,). ``x`` by its row stride, columns contiguous; ``values`` int8 [M, K] contiguous."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, COLUMNS)
    inside = columns < num_columns
    x = tl.load(x_ptr + row * stride_row + columns, mask=inside, other=0.0).to(tl.float32)
    if HAS_SMOOTH:
        x = x * tl.load(smooth_ptr + columns, mask=inside, other=0.0)
    if BLOCK > 1:
        places = tl.arange(0, BLOCK)
        matrix = tl.load(matrix_ptr + places[:, None] * BLOCK + places[None, :])
        blocks = tl.reshape(x, [COLUMNS // BLOCK, BLOCK])
        x = tl.reshape(tl.dot(blocks, matrix, input_precision="ieee"), [COLUMNS])
    peak = tl.maximum(tl.max(tl.abs(x), 0), smallest)
    turned = x * tl.div_rn(top, peak)
    whole = (turned + _TO_INTEGER) - _TO_INTEGER
    whole = tl.minimum(tl.maximum(whole, -top), top)
    tl.store(values_ptr + row * num_columns + columns, whole.to(tl.int8), mask=inside)
    is_bad = tl.max((x != x).to(tl.int32), 0) > 0
    tl.store(scale_ptr + row, tl.where(is_bad, float("nan"), tl.div_rn(peak, top)))


def quantise_rows_triton(
    x: Tensor, *, bits: int = 8, inverse_smooth: Tensor | None = None, block: int = 1
) -> tuple[Tensor, Tensor]:
    """As :func:`~dit_accel.kernels.int8_truth.quantise_rows`, after smoothing and rotation.

    Args:
        x: [M, K], columns contiguous.
        bits: 2 to 8.
        inverse_smooth: fp32 [K]; ``None``: no smoothing.
        block: Of the rotation, a power of two that divides K; 1: none.

    Raises:
        ValueError: K is beyond what a program can hold, or the blocks do not divide it.
    """
    rows, columns = x.shape
    if columns > _WIDEST:
        raise ValueError(f"rows of {columns} columns do not fit; at most {_WIDEST}")
    if columns % block:
        raise ValueError(f"blocks of {block} do not divide {columns} channels")
    # The tensor cores take no tile with fewer than 16 rows.
    width = max(triton.next_power_of_2(columns), 16 * block if block > 1 else 1)
    x = x if x.stride(1) == 1 else x.contiguous()
    if INTERPRETED and x.dtype == torch.bfloat16:
        x = x.float()  # the interpreter reads bf16 as it was stored, which is exact only widened here
    values = torch.empty(rows, columns, dtype=torch.int8, device=x.device)
    scale = torch.empty(rows, 1, dtype=torch.float32, device=x.device)
    if not rows:
        return values, scale
    matrix = hadamard_matrix(block, x.device) if block > 1 else x
    top = float(largest(bits))
    quantise_kernel[(rows,)](
        *(x, values, scale, x if inverse_smooth is None else inverse_smooth, matrix),
        *(x.stride(0), columns, top, SMALLEST_PEAK),
        COLUMNS=width,
        BLOCK=block,
        HAS_SMOOTH=inverse_smooth is not None,
        num_warps=4 if width <= 2048 else 8,
        enable_fp_fusion=False,
    )
    return values, scale
