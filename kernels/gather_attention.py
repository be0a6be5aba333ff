"""Attention in which every query chooses its own blocks of keys, as an operator that compiles and has gradients.

Each block of keys is read once for all who chose it; what they get from their blocks is merged by the log-sum-exps.
Gradients need no merging rule of their own: with the merged log-sum-exp in the place of each part's, the weights are
those of the whole softmax (VMoBA's code does the same).
"""

from typing import Any

import torch
from torch import Tensor

from dit_accel.kernels import gather_attention_cpu
from dit_accel.kernels.block_sparse import HEAD_DIMS, uses_triton
from dit_accel.kernels.gather_pairs import KeyBlocks


def gather_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    chosen: Tensor,
    blocks: KeyBlocks,
    *,
    scale: float | None = None,
    capacity: int = 0,
    lse: bool = True,
    backend: str = "auto",
) -> Any:
    """Softmax attention of every query over the blocks that it chose.

    Args:
        q: [B, Nq, H, D], any strides; D one of 16, 32, 64, 128; fp16, bf16, fp32 or fp64.
        k: [B, Nk, H, D].
        v: [B, Nk, H, D].
        chosen: bool [B, H, C, Nq].
        blocks: The C blocks of the Nk keys.
        scale: Of the scores; ``None``: 1 / sqrt(D).
        capacity: Pairs of a query and a block that a head has at most, where that is known, as for top-k: the GPU then
            is not waited for.
        lse: Also return the natural log-sum-exp of the scores, which has a gradient of its own.
        backend: ``"auto"``: Triton on CUDA, else block by block in PyTorch.

    Returns:
        Output [B, Nq, H, D], and the log-sum-exp [B, H, Nq] in fp32 (fp64 of fp64) if asked for. A query without a key
        has the output 0 and the log-sum-exp -inf.

    Raises:
        ValueError: Shapes, dtypes or sizes that do not fit each other or have no kernel.
    """
    _check(q, k, v, chosen, blocks)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    out, log_sum = _attention(q, k, v, chosen, blocks.tokens, blocks.starts, scale, capacity, backend)
    return (out, log_sum) if lse else out


def gather_attention_truth(
    q: Tensor, k: Tensor, v: Tensor, chosen: Tensor, own: Tensor, *, scale: float
) -> tuple[Tensor, Tensor]:
    """The same over all scores with a mask, in the precision of the inputs; ``own`` int64 [Nk], the block of a key."""
    kept = chosen.transpose(-1, -2)[..., own]  # [B, H, Nq, Nk]
    empty = ~kept.any(-1, keepdim=True)
    scores = (torch.einsum("bqhd,bkhd->bhqk", q, k) * scale).masked_fill(~(kept | empty), -torch.inf)
    weights = scores.softmax(-1).masked_fill(empty, 0.0)
    lse = scores.logsumexp(-1).masked_fill(empty[..., 0], -torch.inf)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v), lse


@torch.library.custom_op("dit_accel::gather_attention", mutates_args=())
def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    chosen: Tensor,
    tokens: Tensor,
    starts: Tensor,
    scale: float,
    capacity: int,
    backend: str,
) -> tuple[Tensor, Tensor]:
    if uses_triton(q, backend):
        both: tuple[Tensor, Tensor] = _launch().run_forward(q, k, v, chosen, tokens, starts, scale, capacity)
        return both
    return gather_attention_cpu.run_forward(q, k, v, chosen, tokens, starts, scale)


@_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    batch, num_queries, heads, _ = q.shape
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    return q.new_empty(q.shape), q.new_empty((batch, heads, num_queries), dtype=dtype)


@torch.library.custom_op("dit_accel::gather_attention_backward", mutates_args=())
def _attention_backward(
    d_out: Tensor,
    d_lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    chosen: Tensor,
    tokens: Tensor,
    starts: Tensor,
    scale: float,
    capacity: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    delta = torch.einsum("bnhd,bnhd->bhn", out.to(lse.dtype), d_out.to(lse.dtype)) - d_lse
    if uses_triton(q, backend):
        grads: tuple[Tensor, Tensor, Tensor] = _launch().run_backward(
            d_out, delta, q, k, v, lse, chosen, tokens, starts, scale, capacity
        )
        return grads
    return gather_attention_cpu.run_backward(d_out, delta, q, k, v, lse, chosen, tokens, starts, scale)


@_attention_backward.register_fake
def _(d_out: Tensor, d_lse: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, chosen, tokens, starts, *ctx.rest = inputs
    ctx.save_for_backward(q, k, v, *output, chosen, tokens, starts)


def _differentiate(ctx: Any, d_out: Tensor | None, d_lse: Tensor | None) -> tuple[Tensor | None, ...]:
    q, k, v, out, lse, *tables = ctx.saved_tensors
    d_out = torch.zeros_like(out) if d_out is None else d_out
    d_lse = torch.zeros_like(lse) if d_lse is None else d_lse
    return (*_attention_backward(d_out, d_lse, q, k, v, out, lse, *tables, *ctx.rest), *[None] * 6)


_attention.register_autograd(_differentiate, setup_context=_save)


def _launch() -> Any:
    from dit_accel.kernels import gather_attention_launch

    return gather_attention_launch


def _check(q: Tensor, k: Tensor, v: Tensor, chosen: Tensor, blocks: KeyBlocks) -> None:
    batch, num_queries, heads, head_dim = q.shape
    num_keys = k.shape[1]
    if k.shape != (batch, num_keys, heads, head_dim) or v.shape != k.shape or not q.dtype == k.dtype == v.dtype:
        raise ValueError(
            f"q, k and v must be [B, N, H, D] with one B, H, D and dtype, got {list(q.shape)} {q.dtype}, "
            f"{list(k.shape)} {k.dtype}, {list(v.shape)} {v.dtype}"
        )
    if head_dim not in HEAD_DIMS:
        raise ValueError(f"no kernel for heads of size {head_dim}; there are {', '.join(map(str, HEAD_DIMS))}")
    if len(blocks.own) != num_keys:
        raise ValueError(f"the blocks are of {len(blocks.own)} keys, and there are {num_keys}")
    wanted = (batch, heads, len(blocks.sizes), num_queries)
    if chosen.dtype != torch.bool or chosen.shape != wanted:
        raise ValueError(f"'chosen' must be bool {list(wanted)}, got {chosen.dtype} {list(chosen.shape)}")
