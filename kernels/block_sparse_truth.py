"""Block-sparse attention in plain PyTorch: what the kernels are tested against. It computes every score."""

import torch
from torch import Tensor

from dit_accel.kernels.block_table import mask_of, num_blocks


def block_sparse_truth(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lut: Tensor,
    counts: Tensor,
    *,
    scale: float,
    block_q: int = 64,
    block_k: int = 64,
    key_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Softmax attention over the key blocks of a table, in the precision of its inputs (fp64 for a truth).

    Args:
        q: [B, Nq, H, D].
        k: [B, Nk, H, D].
        v: [B, Nk, H, D].
        lut: int32 [B or 1, H or 1, Mq, K].
        counts: int32 [B or 1, H or 1, Mq].
        scale: Of the scores.
        block_q: Queries in a block.
        block_k: Keys in a block.
        key_mask: bool [B or 1, Nk], false for keys that are padding.

    Returns:
        Output [B, Nq, H, D], and the natural log-sum-exp of the scores [B, H, Nq]. A query without a key has the
        output 0 and the log-sum-exp -inf, and passes no gradient on.
    """
    kept = token_mask(
        lut, counts, q.shape[1], k.shape[1], block_q=block_q, block_k=block_k, key_mask=key_mask
    )  # [B or 1, H or 1, Nq, Nk]
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * scale
    empty = ~kept.any(-1, keepdim=True)
    # An empty row is computed whole and thrown away: a softmax of nothing but -inf has NaN for a gradient.
    scores = scores.masked_fill(~(kept | empty), -torch.inf)
    weights = scores.softmax(-1).masked_fill(empty, 0.0)
    lse = scores.logsumexp(-1).masked_fill(empty[..., 0], -torch.inf)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v), lse


def token_mask(
    lut: Tensor,
    counts: Tensor,
    num_queries: int,
    num_keys: int,
    *,
    block_q: int,
    block_k: int,
    key_mask: Tensor | None = None,
) -> Tensor:
    """The table as a mask of single scores: bool [B or 1, H or 1, Nq, Nk]."""
    blocks = mask_of(lut, counts, num_blocks(num_keys, block_k))
    rows = blocks.repeat_interleave(block_q, -2)[..., :num_queries, :]
    kept = rows.repeat_interleave(block_k, -1)[..., :num_keys]
    return kept if key_mask is None else kept & key_mask[:, None, None, :]
