"""``block_sparse_attention``: attention over a table of key blocks, as an operator that compiles and has gradients.

On CUDA it is the Triton kernel, on the CPU a gather of the selected blocks (:mod:`dit_accel.kernels.block_gather`);
both skip what the table leaves out. The truth is :mod:`dit_accel.kernels.block_sparse_truth`.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from dit_accel.kernels import block_gather
from dit_accel.kernels.block_table import BLOCK_SIZES, BlockTable, num_blocks, transposed

HEAD_DIMS = (16, 32, 64, 128)
"""Head sizes that have a kernel."""

Backend = Literal["auto", "triton", "gather"]


def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lut: Tensor,
    counts: Tensor,
    *,
    scale: float | None = None,
    block_q: int = 64,
    block_k: int = 64,
    key_mask: Tensor | None = None,
    transposed_table: tuple[Tensor, Tensor] | None = None,
    lse: bool = True,
    backend: Backend = "auto",
) -> Any:
    """Softmax attention over the key blocks that a table gives each block of queries.

    Args:
        q: [B, Nq, H, D], any strides; D one of :data:`HEAD_DIMS`; fp16, bf16, fp32 or fp64.
        k: [B, Nk, H, D].
        v: [B, Nk, H, D].
        lut: int32 [B or 1, H or 1, Mq, K], see :mod:`dit_accel.kernels.block_table`.
        counts: int32 [B or 1, H or 1, Mq].
        scale: Of the scores; ``None``: 1 / sqrt(D).
        block_q: Queries in a block of the table.
        block_k: Keys in one.
        key_mask: bool [B or 1, Nk], false for padding.
        transposed_table: ``lut`` and ``counts`` seen from the keys, for the backward pass; ``None``: made when needed.
        lse: Also return the natural log-sum-exp of the scores, which has a gradient of its own.
        backend: ``"auto"``: Triton on CUDA, else the gather.

    Returns:
        Output [B, Nq, H, D], and the log-sum-exp [B, H, Nq] in fp32 (fp64 of fp64) if asked for. A query without a key
        has the output 0 and the log-sum-exp -inf.

    Raises:
        ValueError: Shapes, dtypes or sizes that do not fit each other or have no kernel.
    """
    check_attention(q, k, v, lut, counts, block_q, block_k, key_mask)
    lut_of_keys, counts_of_keys = transposed_table if transposed_table is not None else (None, None)
    out, log_sum = _attention(
        q,
        k,
        v,
        lut,
        counts,
        lut_of_keys,
        counts_of_keys,
        key_mask,
        q.shape[-1] ** -0.5 if scale is None else scale,
        block_q,
        block_k,
        backend,
    )
    return (out, log_sum) if lse else out


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: BlockTable,
    *,
    scale: float | None = None,
    key_mask: Tensor | None = None,
    lse: bool = True,
    backend: Backend = "auto",
) -> Any:
    """:func:`block_sparse_attention` over a :class:`BlockTable`.

    Raises:
        ValueError: As there, or the table is for sequences of other lengths.
    """
    table.check(q.shape[1], k.shape[1])
    return block_sparse_attention(
        q,
        k,
        v,
        table.lut,
        table.counts,
        scale=scale,
        block_q=table.block_q,
        block_k=table.block_k,
        key_mask=key_mask,
        transposed_table=table.of_keys,
        lse=lse,
        backend=backend,
    )


@torch.library.custom_op("dit_accel::block_sparse_attention", mutates_args=())
def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lut: Tensor,
    counts: Tensor,
    lut_of_keys: Tensor | None,
    counts_of_keys: Tensor | None,
    key_mask: Tensor | None,
    scale: float,
    block_q: int,
    block_k: int,
    backend: str,
) -> tuple[Tensor, Tensor]:
    run = _triton().run_forward if uses_triton(q, backend) else block_gather.run_forward
    return run(q, k, v, lut, counts, key_mask, scale, block_q, block_k)


@_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    batch, num_queries, heads, _ = q.shape
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    return q.new_empty(q.shape), q.new_empty((batch, heads, num_queries), dtype=dtype)


@torch.library.custom_op("dit_accel::block_sparse_attention_backward", mutates_args=())
def _attention_backward(
    d_out: Tensor,
    d_lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    lut: Tensor,
    counts: Tensor,
    lut_of_keys: Tensor | None,
    counts_of_keys: Tensor | None,
    key_mask: Tensor | None,
    scale: float,
    block_q: int,
    block_k: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    args = (d_out, d_lse, q, k, v, out, lse, lut, counts)
    if not uses_triton(q, backend):
        return block_gather.run_backward(*args, key_mask, scale, block_q, block_k)
    if lut_of_keys is None or counts_of_keys is None:
        lut_of_keys, counts_of_keys = transposed(lut, counts, num_blocks(k.shape[1], block_k))
    result: tuple[Tensor, Tensor, Tensor] = _triton().run_backward(
        *args, lut_of_keys, counts_of_keys, key_mask, scale, block_q, block_k
    )
    return result


@_attention_backward.register_fake
def _(d_out: Tensor, d_lse: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, lut, counts, lut_of_keys, counts_of_keys, key_mask, *ctx.rest = inputs
    ctx.save_for_backward(q, k, v, *output, lut, counts, lut_of_keys, counts_of_keys, key_mask)


def _differentiate(ctx: Any, d_out: Tensor | None, d_lse: Tensor | None) -> tuple[Tensor | None, ...]:
    q, k, v, out, lse, *rest = ctx.saved_tensors
    d_out = torch.zeros_like(out) if d_out is None else d_out
    d_lse = torch.zeros_like(lse) if d_lse is None else d_lse
    return (*_attention_backward(d_out, d_lse, q, k, v, out, lse, *rest, *ctx.rest), *[None] * 9)


_attention.register_autograd(_differentiate, setup_context=_save)


def uses_triton(q: Tensor, backend: str) -> bool:
    """Whether a backend means Triton for such tensors."""
    return backend == "triton" or (backend == "auto" and q.is_cuda)


def _triton() -> Any:
    # Triton is loaded by its first use: the CPU path does without it.
    from dit_accel.kernels import block_sparse_launch

    return block_sparse_launch


def check_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lut: Tensor,
    counts: Tensor,
    block_q: int,
    block_k: int,
    key_mask: Tensor | None,
) -> None:
    """Raise ``ValueError`` where inputs do not fit each other, or there is no kernel for them."""
    batch, num_queries, heads, head_dim = q.shape
    num_keys = k.shape[1]
    if k.shape != (batch, num_keys, heads, head_dim) or v.shape != k.shape:
        raise ValueError(
            f"q, k and v must be [B, N, H, D] with one B, H and D, got {list(q.shape)}, {list(k.shape)}, "
            f"{list(v.shape)}"
        )
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k and v must have one dtype, got {q.dtype}, {k.dtype}, {v.dtype}")
    if head_dim not in HEAD_DIMS:
        raise ValueError(f"no kernel for heads of size {head_dim}; there are {', '.join(map(str, HEAD_DIMS))}")
    if block_q not in BLOCK_SIZES or block_k not in BLOCK_SIZES:
        raise ValueError(f"blocks must be one of {', '.join(map(str, BLOCK_SIZES))} long, got {block_q} x {block_k}")
    rows = num_blocks(num_queries, block_q)
    if lut.dtype != torch.int32 or counts.dtype != torch.int32 or lut.shape[:3] != counts.shape:
        raise ValueError(
            f"expected int32 tables [B, H, Mq, K] and [B, H, Mq], got {lut.dtype} {list(lut.shape)} and "
            f"{counts.dtype} {list(counts.shape)}"
        )
    if lut.shape[0] not in (1, batch) or lut.shape[1] not in (1, heads) or lut.shape[2] != rows:
        raise ValueError(
            f"{num_queries} queries in blocks of {block_q} need a table of {rows} rows for {batch} samples (or 1) and "
            f"{heads} heads (or 1), got {list(lut.shape)}"
        )
    if key_mask is not None and (
        key_mask.dtype != torch.bool or key_mask.shape not in ((batch, num_keys), (1, num_keys))
    ):
        raise ValueError(
            f"'key_mask' must be bool [{batch} or 1, {num_keys}], got {key_mask.dtype} {list(key_mask.shape)}"
        )
