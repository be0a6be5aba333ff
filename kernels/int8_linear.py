"""``int8_linear``: quantise, multiply and scale in two Triton kernels, as an operator that compiles.

On a CPU it is the plain truth of the same integers, so that a graph with it runs anywhere.
"""

from typing import Any

import torch
from torch import Tensor

from dit_accel.kernels.hadamard import rotate_blocks
from dit_accel.kernels.int4_packing import unpack_int8
from dit_accel.kernels.int8_truth import int_matmul, quantise_rows, rescale


@torch.library.custom_op("dit_accel::int8_linear", mutates_args=())
def int8_linear(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    multiplier: Tensor | None,
    zero: Tensor | None,
    group: int,
    inverse_smooth: Tensor | None,
    block: int,
    bits: int,
    triton: bool,
) -> Tensor:
    """[M, N] in the dtype of ``x``.

    Args:
        x: [M, K].
        weight: int8 [N, K], or uint8 [N, ceil(K / 2)] with ``multiplier``.
        scale: fp32 [N].
        bias: [N].
        multiplier: uint8 [N, G].
        zero: uint8 [N, G].
        group: Input channels in a group.
        inverse_smooth: fp32 [K].
        block: Of the rotation; 1: none.
        bits: Of the activations.
        triton: By the kernels; else by their truth.
    """
    if triton:
        # Triton is loaded by its first use.
        from dit_accel.kernels.int8_gemm import int8_gemm
        from dit_accel.kernels.int8_quantise import quantise_rows_triton

        values, rows = quantise_rows_triton(x, bits=bits, inverse_smooth=inverse_smooth, block=block)
        return int8_gemm(
            values, weight, rows, scale, bias, multiplier=multiplier, zero=zero, group=group, dtype=x.dtype
        )
    turned = x.float() if inverse_smooth is None else x.float() * inverse_smooth
    values, rows = quantise_rows(rotate_blocks(turned, block), bits=bits)
    if multiplier is not None and zero is not None:
        weight = unpack_int8(weight, multiplier, zero, group, x.shape[1])
    return rescale(int_matmul(values, weight), rows, scale, bias).to(x.dtype)


@int8_linear.register_fake
def _(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0]))
