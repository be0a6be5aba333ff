"""Block-sparse attention on INT8 tensor cores: forward only, as an operator that compiles.

On the CPU, where INT8 is no faster, q, k and v are rounded to the same bits and computed on as they are: what it costs
in quality can be seen there, the rounding of the softmax weights apart.
"""

from typing import Any

import torch
from torch import Tensor

from dit_accel.kernels import block_gather
from dit_accel.kernels.block_sparse import check_attention, uses_triton
from dit_accel.kernels.block_table import BlockTable
from dit_accel.kernels.low_bit import PRECISIONS, LowBits, Precision, why_no_float8, why_too_small


def low_bit_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: BlockTable,
    *,
    precision: Precision = "int8",
    scale: float | None = None,
    key_mask: Tensor | None = None,
    lse: bool = True,
    backend: str = "auto",
) -> Any:
    """:func:`~dit_accel.kernels.block_sparse.attend` with products in few bits.

    Args:
        q: [B, Nq, H, D], D at least 32; a unit of its own for each query.
        k: [B, Nk, H, D]; smoothed, a unit for each of the table's blocks.
        v: [B, Nk, H, D]; a unit for each block and channel.
        table: The blocks to compute; but for ``"int8+plain"``, of at least 32 keys.
        precision: ``"int8"``: q k^T in INT8, p v in INT8 with the fixed unit 1 / 127 for the weights;
            ``"int8+float8"``: p v in e4m3, added up in fp32 tile by tile, on GPUs of compute capability 8.9 and newer;
            ``"int8+plain"``: p v as the values came.
        scale: Of the scores; ``None``: 1 / sqrt(D).
        key_mask: bool [B or 1, Nk], false for padding. The mean key is that of all keys, padding too: any constant
            would do.
        lse: Also return the log-sum-exp of the scores of unsmoothed keys.
        backend: ``"auto"``: Triton on CUDA, else rounded on the CPU.

    Returns:
        Output [B, Nq, H, D], and the log-sum-exp [B, H, Nq] in fp32 if asked for.

    Raises:
        ValueError: Inputs that do not fit each other or have no kernel, no such precision, also on this GPU, or a
            gradient is wanted.
    """
    if precision not in PRECISIONS or precision == "plain":
        raise ValueError(f"'precision' must be one of {', '.join(PRECISIONS[1:])}, got {precision!r}")
    if torch.is_grad_enabled() and any(each.requires_grad for each in (q, k, v)):
        raise ValueError(
            "attention in few bits has no gradient; compute it under torch.no_grad(), or in plain precision"
        )
    reason = why_too_small(q.shape[-1], table.block_k, precision)
    if reason is None and precision == "int8+float8":
        reason = why_no_float8(q.device)
    if reason is not None:
        raise ValueError(reason)
    check_attention(q, k, v, table.lut, table.counts, table.block_q, table.block_k, key_mask)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    out, log_sum = _attention(
        q, k, v, table.lut, table.counts, key_mask, scale, table.block_q, table.block_k, precision, backend
    )
    return (out, log_sum) if lse else out


@torch.library.custom_op("dit_accel::low_bit_attention", mutates_args=())
def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lut: Tensor,
    counts: Tensor,
    key_mask: Tensor | None,
    scale: float,
    block_q: int,
    block_k: int,
    precision: str,
    backend: str,
) -> tuple[Tensor, Tensor]:
    bits = LowBits.of(q, k, v, block=block_k, precision=precision)  # type: ignore[arg-type]
    if uses_triton(q, backend):
        from dit_accel.kernels import low_bit_forward

        out, lse = low_bit_forward.run(bits, lut, counts, key_mask, scale, block_q, block_k, q.dtype)
    else:
        parts = bits.restored(block_k, q.dtype)
        out, lse = block_gather.run_forward(*parts, lut, counts, key_mask, scale, block_q, block_k)
    return out, lse.to(torch.float32) + bits.shift(q, scale)


@_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    batch, num_queries, heads, _ = q.shape
    return q.new_empty(q.shape), q.new_empty((batch, heads, num_queries), dtype=torch.float32)
