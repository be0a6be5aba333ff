"""What each block of a softmax holds: its sum, its largest weight, how many are small. For choosing which to compute.

The weights are never held as a whole: on CUDA a kernel counts them up where they are computed
(:mod:`dit_accel.kernels.pooled_scores_triton`), elsewhere a few rows of blocks at a time are computed, normalised and
summed up. Memory grows with the number of blocks and not with the square of the tokens.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dit_accel.kernels.block_sparse import HEAD_DIMS, Backend, uses_triton
from dit_accel.kernels.block_table import BLOCK_SIZES, block_lengths, num_blocks

SMALL = 1e-3
"""Below this PAROAttention counts a weight as small (2506.16054)."""
SCORES_AT_ONCE = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockStats:
    """Of each block of softmax weights, fp32 [B, H, Mq, Mk] (fp64 of fp64).

    Attributes:
        sums: Sum of its weights: a row of blocks adds up to its number of queries.
        maxima: The largest weight.
        small: How many weights are below the limit.
    """

    sums: Tensor
    maxima: Tensor
    small: Tensor


def pooled_scores(
    q: Tensor,
    k: Tensor,
    *,
    scale: float | None = None,
    block_q: int = 64,
    block_k: int = 64,
    small: float = SMALL,
    backend: Backend = "auto",
) -> BlockStats:
    """Statistics of softmax(scale * q k^T) by blocks.

    Args:
        q: [B, Nq, H, D].
        k: [B, Nk, H, D].
        scale: Of the scores; ``None``: 1 / sqrt(D).
        block_q: Queries in a block.
        block_k: Keys in a block.
        small: Limit of :attr:`BlockStats.small`.
        backend: ``"auto"``: Triton on CUDA where it has a kernel for such heads and blocks, else PyTorch.
    """
    batch, num_queries, heads, dim = q.shape
    num_keys = k.shape[1]
    scale = dim**-0.5 if scale is None else scale
    if uses_triton(q, backend) and _has_kernel(dim, block_q, block_k):
        from dit_accel.kernels import pooled_scores_triton

        found = pooled_scores_triton.run(q, k, scale=scale, block_q=block_q, block_k=block_k, small=small)
        return BlockStats(sums=found[0], maxima=found[1], small=found[2])
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    keys = k.to(dtype).permute(0, 2, 3, 1)  # [B, H, D, Nk]
    of_keys = _membership(num_keys, block_k, dtype, k.device)  # [Nk, Mk]
    at_once = max(1, SCORES_AT_ONCE // (batch * heads * num_keys * block_q)) * block_q
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, num_queries, at_once):
        queries = q[:, start : start + at_once].to(dtype).transpose(1, 2)
        weights = (queries @ keys * scale).softmax(-1)
        of_rows = _membership(weights.shape[-2], block_q, dtype, q.device).mT  # [rows, n]
        parts.append(
            (
                of_rows @ (weights @ of_keys),
                _maxima(weights, block_q, block_k),
                of_rows @ ((weights < small).to(dtype) @ of_keys),
            )
        )
    sums, maxima, few = (torch.cat(each, -2) for each in zip(*parts, strict=True))
    return BlockStats(sums=sums, maxima=maxima, small=few)


def pooled_sums(
    q: Tensor,
    k: Tensor,
    permutations: Tensor,
    *,
    scale: float | None = None,
    block: int = 64,
    backend: Backend = "auto",
) -> Tensor:
    """The sums of :func:`pooled_scores` for tokens in several orders, from one pass over the weights.

    Args:
        q: [B, N, H, D], in the model's order.
        k: [B, N, H, D].
        permutations: int64 [O, N]: the tokens in each order.
        scale: Of the scores; ``None``: 1 / sqrt(D).
        block: Tokens in a block.
        backend: As in :func:`pooled_scores`.

    Returns:
        [O, B, H, M, M] in fp32 (fp64 of fp64).
    """
    batch, length, heads, dim = q.shape
    scale = dim**-0.5 if scale is None else scale
    if uses_triton(q, backend) and _has_kernel(dim, block, block):
        # As many passes as there are orders, none of which holds a weight.
        places = permutations.to(q.device)
        moved = ((q.index_select(1, each), k.index_select(1, each)) for each in places)
        sizes: dict[str, Any] = {"scale": scale, "block_q": block, "block_k": block, "backend": backend}
        return torch.stack([pooled_scores(*both, **sizes).sums for both in moved])
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    keys = k.to(dtype).permute(0, 2, 3, 1)
    in_order = _membership(length, block, dtype, q.device)
    blocks = in_order.shape[1]
    members = torch.stack([in_order[permutation.argsort()] for permutation in permutations.to(q.device)])  # [O, N, M]
    of_keys = members.permute(1, 0, 2).flatten(1)  # [N, O * M]
    sums = torch.zeros(len(permutations), batch, heads, blocks, blocks, dtype=dtype, device=q.device)
    at_once = max(1, SCORES_AT_ONCE // (batch * heads * length))
    for start in range(0, length, at_once):
        queries = q[:, start : start + at_once].to(dtype).transpose(1, 2)
        by_keys = (queries @ keys * scale).softmax(-1) @ of_keys  # [B, H, rows, O * M]
        of_rows = members[:, start : start + at_once].mT[:, None, None]  # [O, 1, 1, M, rows]
        sums += of_rows @ by_keys.unflatten(-1, (-1, blocks)).movedim(-2, 0)
    return sums


def _has_kernel(head_dim: int, block_q: int, block_k: int) -> bool:
    return head_dim in HEAD_DIMS and block_q in BLOCK_SIZES and block_k in BLOCK_SIZES


def _membership(length: int, block: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[N, M]: 1 where a token is in a block."""
    lengths = block_lengths(length, block).to(device)
    return torch.eye(len(lengths), dtype=dtype, device=device).repeat_interleave(lengths, 0, output_size=length)


def _maxima(weights: Tensor, block_q: int, block_k: int) -> Tensor:
    *lead, rows, columns = weights.shape
    tall, wide = num_blocks(rows, block_q), num_blocks(columns, block_k)
    missing = (0, wide * block_k - columns, 0, tall * block_q - rows)
    return torch.nn.functional.pad(weights, missing).view(*lead, tall, block_q, wide, block_k).amax((-3, -1))
