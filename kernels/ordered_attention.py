"""Block-sparse attention over tokens in an order of each head's own, which are not moved for it. Forward only.

PAROAttention cuts blocks from tokens in another order for every head. Moving q, k and v into it and the output back is
8 N D numbers read and written for each head; the kernel instead reads and writes each row where it lies, a row being D
numbers that stand together. That is the published fusion with the rotary embedding's store, at the other end.
"""

from typing import Any

import torch
from torch import Tensor

from dit_accel.kernels import block_gather
from dit_accel.kernels.block_sparse import check_attention, uses_triton
from dit_accel.kernels.block_table import BlockTable


def ordered_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: BlockTable,
    order: Tensor,
    *,
    scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """Attention over the blocks of a table, whose rows and columns are tokens in an order.

    Args:
        q: [B, N, H, D], in the model's order.
        k: [B, N, H, D].
        v: [B, N, H, D].
        table: Of N tokens.
        order: int32 [H or 1, N], each row a permutation: the tokens in the order that blocks are cut from.
        scale: Of the scores; ``None``: 1 / sqrt(D).
        backend: ``"auto"``: Triton on CUDA; on the CPU tokens are moved.

    Returns:
        [B, N, H, D] in the model's order.

    Raises:
        ValueError: Inputs that do not fit each other or have no kernel, or a gradient is wanted.
    """
    if torch.is_grad_enabled() and any(each.requires_grad for each in (q, k, v)):
        raise ValueError("ordered attention has no gradient: move the tokens, or compute it under torch.no_grad()")
    check_attention(q, k, v, table.lut, table.counts, table.block_q, table.block_k, None)
    if order.dtype != torch.int32 or order.shape not in ((q.shape[2], q.shape[1]), (1, q.shape[1])):
        raise ValueError(
            f"'order' must be int32 [{q.shape[2]} or 1, {q.shape[1]}], got {order.dtype} {list(order.shape)}"
        )
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    out: Tensor = _attention(q, k, v, table.lut, table.counts, order, scale, table.block_q, table.block_k, backend)
    return out


def moved(tokens: Tensor, places: Tensor) -> Tensor:
    """[B, N, H, D], the tokens of each head taken from their places, int64 [N, H]."""
    return tokens.gather(1, places[None, :, :, None].expand(tokens.shape))


@torch.library.custom_op("dit_accel::ordered_attention", mutates_args=())
def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lut: Tensor,
    counts: Tensor,
    order: Tensor,
    scale: float,
    block_q: int,
    block_k: int,
    backend: str,
) -> Tensor:
    order = order.contiguous()
    if uses_triton(q, backend):
        from dit_accel.kernels import block_sparse_launch

        return block_sparse_launch.run_forward(q, k, v, lut, counts, None, scale, block_q, block_k, order)[0]
    there = order.long().expand(q.shape[2], -1)
    q, k, v = (moved(each, there.mT) for each in (q, k, v))
    out, _ = block_gather.run_forward(q, k, v, lut, counts, None, scale, block_q, block_k)
    return moved(out, there.argsort(-1).mT)


@_attention.register_fake
def _(q: Tensor, *rest: Any) -> Tensor:
    return q.new_empty(q.shape)
