"""Products of small integers in plain PyTorch: the truth that every faster path agrees with, integer by integer.

A row of activations becomes ``round(x * (top / peak))`` with ``top = 2**(bits - 1) - 1`` and the row's own peak: every
element that is summed into one output shares a scale, and nothing else does (ViDiT-Q, arXiv 2406.02540, section 3).
Halves are rounded to even, and all of it is fp32 whatever the input is, so that a kernel can do the very same.
"""

import torch
from torch import Tensor

SMALLEST_PEAK = 1e-30  # of a row of noughts: its integers are 0, and nothing is divided by 0
MAX_IN_FEATURES = 2**15  # beyond, a sum of products with its zero points might not fit into int32


def largest(bits: int) -> int:
    """The largest integer of a symmetric grid: 127 of 8 bits, 7 of 4."""
    return int(2 ** (bits - 1)) - 1


def quantise_rows(x: Tensor, *, bits: int = 8) -> tuple[Tensor, Tensor]:
    """Each row on its own symmetric grid.

    Args:
        x: [M, K], any floating dtype.
        bits: 2 to 8.

    Returns:
        int8 [M, K] and the scales fp32 [M, 1]. A row with a NaN has the scale NaN.
    """
    x = x.float()
    top = largest(bits)
    peak = x.abs().amax(-1, keepdim=True).clamp_min(SMALLEST_PEAK)
    return to_grid(x, top / peak, top), peak / top


def quantise_rows_shifted(x: Tensor, *, bits: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Each row on a grid from its least to its largest value, of which 0 is a point.

    Returns:
        int8 [M, K], scales fp32 [M, 1], and the integers that stand for 0, int32 [M, 1].
    """
    x = x.float()
    low = x.amin(-1, keepdim=True).clamp_max(0)
    high = x.amax(-1, keepdim=True).clamp_min(0)
    scale = ((high - low) / (2**bits - 1)).clamp_min(SMALLEST_PEAK)
    zero = torch.round(-low / scale) - 2 ** (bits - 1)
    values = (torch.round(x / scale) + zero).clamp(-(2 ** (bits - 1)), largest(bits))
    return values.to(torch.int8), scale, zero.to(torch.int32)


def to_grid(x: Tensor, inverse_scale: Tensor, top: int) -> Tensor:
    """int8: x times a given inverse scale, rounded half to even and clamped to [-top, top]."""
    # In place: on a CPU fresh pages for each of these would cost more than the arithmetic.
    return (x.float() * inverse_scale).round_().clamp_(-top, top).to(torch.int8)


def int_matmul(a: Tensor, b: Tensor) -> Tensor:
    """int32 [M, N] of int8 [M, K] and [N, K]: exact, for sums of products of int8 are exact in fp64."""
    return (a.double() @ b.double().mT).to(torch.int32)


def rescale(acc: Tensor, row_scale: Tensor, column_scale: Tensor, bias: Tensor | None) -> Tensor:
    """fp32 [M, N]: the sums int32 [M, N] in units of the rows [M, 1] and columns [N], plus a bias [N]."""
    out = acc.float().mul_(row_scale).mul_(column_scale)
    return out if bias is None else out.add_(bias.float())


def int8_linear_truth(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    bits: int = 8,
) -> Tensor:
    """A linear layer of integers: [M, K] times int8 [N, K] with a scale [N] for each output, in the dtype of ``x``."""
    values, row_scale = quantise_rows(x, bits=bits)
    return rescale(int_matmul(values, weight), row_scale, scale, bias).to(x.dtype)
