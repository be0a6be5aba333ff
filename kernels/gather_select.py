"""Which blocks each query reads, by the means of their keys (MoBA; VMoBA, 2506.23858, section 3), on the device.

The published code sorts all scores of a head, 8 bytes for each query and block and as many again for their places.
Here they are counted into bins, which is one pass, waits for nothing, and finds the same border up to 1 / 4096 of the
scores' range.
"""

from typing import Literal

import torch
from torch import Tensor

from dit_accel.kernels.gather_pairs import KeyBlocks

Pool = Literal["query", "head"]
"""Who shares what is kept: each query chooses for itself, or all pairs of a head are ranked together."""
BINS = 4096


def gates(q: Tensor, k: Tensor, blocks: KeyBlocks) -> Tensor:
    """q . mean of the keys of a block: fp32 [B, H, C, Nq] (fp64 of fp64).

    Args:
        q: [B, Nq, H, D].
        k: [B, Nk, H, D].
        blocks: The C blocks of the keys.
    """
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    numbers = torch.arange(len(blocks.sizes), device=k.device)
    member = (numbers[:, None] == blocks.own).to(k.dtype)  # a product with it is a sum, with one order of adding up
    sizes = blocks.starts.diff().to(dtype)[:, None]
    # A sum of thousands of keys does not fit into fp16. Powers of two: nothing is rounded that was not before.
    shrink = sizes.log2().ceil().clamp_max(14).neg().exp2()
    sums = torch.einsum("cn,bnhd->bhcd", member * shrink.to(k.dtype), k).to(dtype)
    # In the precision of queries, as every other score: no fp32 copy of all of them.
    return ((sums / (sizes * shrink)).to(q.dtype) @ q.permute(0, 2, 3, 1)).to(dtype)


def choose_best(gate: Tensor, own: Tensor, keep: int, pool: Pool) -> Tensor:
    """bool [B, H, C, Nq]: each query's own block, and the highest others.

    Args:
        gate: [B, H, C, Nq].
        own: int64 [Nq], the block that a query is in; -1: in none.
        keep: Blocks of a query, its own among them; of a head ``keep`` times as many as there are queries, at most.
        pool: Who shares them.
    """
    mine = _mine(gate, own)
    if pool == "query":
        # Their own block is above all others, also above what is not a number, which comes next, or has no end.
        numbers = gate.nan_to_num(torch.finfo(gate.dtype).max)
        chosen = numbers.masked_fill(mine, torch.inf).topk(min(keep, gate.shape[-2]), dim=-2).indices
        return torch.zeros_like(mine).scatter_(-2, chosen, True)
    others = keep * gate.shape[-1] - mine.sum((-1, -2))
    return mine | _top_of_head(gate, mine, others, None)


def choose_share(gate: Tensor, own: Tensor, share: float, pool: Pool) -> Tensor:
    """bool [B, H, C, Nq]: each query's own block, and the highest others up to a share of all scores.

    Scores are brought to [0, 1] first, by the lowest and the highest one of the pool, as in the published code. With
    scores of no structure a ``share`` then is close to the density that comes of it.

    Args:
        gate: [B, H, C, Nq].
        own: int64 [Nq], the block that a query is in; -1: in none.
        share: tau, in [0, 1]; own blocks are counted first. 0: only they, 1: everything.
        pool: Who shares it.
    """
    mine = _mine(gate, own)
    if share >= 1:
        return torch.ones_like(mine)
    if pool == "query":
        low, high = gate.amin(-2, keepdim=True), gate.amax(-2, keepdim=True)
        scores = (gate - low) / (high - low).clamp_min(torch.finfo(gate.dtype).tiny)
        total = scores.sum(-2, keepdim=True)
        left = share * total - (scores * mine).sum(-2, keepdim=True)
        ranked, places = scores.masked_fill(mine, 0.0).sort(-2, descending=True)
        before = ranked.cumsum(-2) - ranked
        return mine | torch.zeros_like(mine).scatter_(-2, places, (before < left) & (ranked > 0))
    return mine | _top_of_head(gate, mine, None, share)


def _top_of_head(gate: Tensor, mine: Tensor, count: Tensor | None, share: float | None) -> Tensor:
    """The highest pairs of each head that are not ``mine``: at most ``count`` [B, H], or up to a share of the sum."""
    low, high = gate.amin((-1, -2), keepdim=True), gate.amax((-1, -2), keepdim=True)
    scores = (gate - low) / (high - low).clamp_min(torch.finfo(gate.dtype).tiny)
    place = (scores * BINS).to(torch.int64).clamp_(0, BINS - 1)  # of NaN too, which is no place
    flat = place.masked_fill(mine, BINS).flatten(-2)  # what is mine already goes into a bin of its own
    counts = torch.zeros(*flat.shape[:-1], BINS + 1, dtype=torch.int64, device=gate.device)
    counts = counts.scatter_add_(-1, flat, torch.ones_like(flat))[..., :BINS].flip(-1)  # integers: no order of adding
    if share is None:
        assert count is not None
        wanted = counts.cumsum(-1) <= count[..., None]  # whole bins that fit
    else:
        middle = ((torch.arange(BINS, device=gate.device) + 0.5) / BINS).flip(-1)
        held = counts * middle
        left = share * scores.sum((-1, -2)) - (scores * mine).sum((-1, -2))
        wanted = held.cumsum(-1) - held < left[..., None]  # up to the bin that reaches it
    border = BINS - wanted.sum(-1)
    return (place >= border[..., None, None]) & ~mine


def _mine(gate: Tensor, own: Tensor) -> Tensor:
    numbers = torch.arange(gate.shape[-2], device=gate.device)
    return (numbers[:, None] == own).expand(gate.shape)
