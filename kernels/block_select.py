"""Choosing blocks by scores, on their own device: nothing here waits for it, and shapes never depend on values.

A table of the best ``keep`` blocks of each row is as wide as ``keep``; one by a threshold is as wide as there are
blocks, and its counts say how much of that is read.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from dit_accel.kernels.block_table import BlockTable, block_lengths, table_of


def block_means(tokens: Tensor, block: int, *, key_mask: Tensor | None = None) -> Tensor:
    """Mean of the tokens of each block, the ragged one divided by what it has.

    Args:
        tokens: [B, N, H, D].
        block: Tokens in a block.
        key_mask: bool [B or 1, N], false for tokens that are padding. A block of nothing else has the mean 0.

    Returns:
        fp32 [B, H, M, D] (fp64 of fp64).
    """
    batch, length, heads, dim = tokens.shape
    dtype = torch.float64 if tokens.dtype == torch.float64 else torch.float32
    if key_mask is not None:
        tokens = tokens.masked_fill(~key_mask[:, :, None, None], 0.0)
        lengths = pad(key_mask.to(dtype), (0, -length % block)).unflatten(1, (-1, block)).sum(-1)[:, :, None, None]
    else:
        lengths = block_lengths(length, block).to(tokens.device, dtype)[None, :, None, None]
    missing = -length % block
    whole = pad(tokens, (0, 0, 0, 0, 0, missing)) if missing else tokens
    sums = whole.view(batch, -1, block, heads, dim).sum(2, dtype=dtype)
    means: Tensor = (sums / lengths.clamp_min(1)).transpose(1, 2)
    return means


def mean_scores(q: Tensor, k: Tensor, *, block_q: int, block_k: int, key_mask: Tensor | None = None) -> Tensor:
    """How alike the means of blocks are, [B, H, Mq, Mk]: the cheap guess of SLA, VSA and SpargeAttn.

    The mean of all keys is taken off first. It shifts every row by a constant, which ranks nothing otherwise, and
    leaves more digits to what does.

    Args:
        q: [B, Nq, H, D].
        k: [B, Nk, H, D].
        block_q: Queries in a block.
        block_k: Keys in a block.
        key_mask: bool [B or 1, Nk], false for padding.
    """
    queries, keys = block_means(q, block_q), block_means(k, block_k, key_mask=key_mask)
    return queries @ (keys - keys.nanmean(-2, keepdim=True)).mT


def kept_of(density: float, blocks: int) -> int:
    """How many of so many blocks a share of them is: at least one."""
    return min(blocks, max(1, round(density * blocks)))


def best_blocks(scores: Tensor, keep: int, *, always: range = range(0)) -> Tensor:
    """The positions of the highest scores of each row, ascending: int32 [..., Mq, keep + len(always)].

    Args:
        scores: [..., Mq, Mk].
        keep: How many of a row, those in ``always`` not counted.
        always: Blocks that every row has, as those of text.
    """
    if len(always):
        scores = torch.cat([scores[..., : always.start], scores[..., always.stop :]], -1)
    chosen = scores.topk(min(keep, scores.shape[-1]), dim=-1, sorted=False).indices.to(torch.int32)
    if len(always):
        chosen = torch.where(chosen >= always.start, chosen + len(always), chosen)
        own = torch.arange(always.start, always.stop, dtype=torch.int32, device=scores.device)
        chosen = torch.cat([chosen, own.expand(*chosen.shape[:-1], -1)], -1)
    return chosen.sort(-1).values


def table_of_best(
    scores: Tensor, keep: int, *, block_q: int, block_k: int, text: range = range(0), text_rows: range = range(0)
) -> BlockTable:
    """A table of the ``keep`` best blocks of each row, and all of text.

    Args:
        scores: [B, H, Mq, Mk].
        keep: How many of a row, text not counted.
        block_q: Queries in a block.
        block_k: Keys in a block.
        text: Blocks of keys that every row reads.
        text_rows: Blocks of queries that read everything.

    Returns:
        The table, without the one seen from the keys: the backward pass makes that if it comes to one.
    """
    size = scores.shape[-1]
    lut = best_blocks(scores, keep, always=text)
    counts = torch.full(lut.shape[:-1], lut.shape[-1], dtype=torch.int32, device=lut.device)
    if len(text_rows):
        lut = pad(lut, (0, size - lut.shape[-1]))
        everything = torch.arange(size, dtype=torch.int32, device=lut.device)
        lut[..., text_rows.start : text_rows.stop, :] = everything
        counts[..., text_rows.start : text_rows.stop] = size
    return BlockTable(lut=lut, counts=counts, num_key_blocks=size, block_q=block_q, block_k=block_k)


def blocks_of_mass(weights: Tensor, mass: float) -> Tensor:
    """bool [..., Mk]: the fewest blocks of each row that hold a share of its weight, at least one.

    Args:
        weights: [..., Mk], not negative.
        mass: In (0, 1].
    """
    ranked, places = weights.sort(-1, descending=True)
    held = ranked.cumsum(-1)
    # Of rounding, the last ones of a row may never add up to all of it.
    before = pad(held, (1, 0))[..., :-1] < mass * held[..., -1:]
    before[..., 0] = True
    return torch.zeros_like(before).scatter_(-1, places, before)


def table_of_mass(
    weights: Tensor, mass: float, *, block_q: int, block_k: int, text: range = range(0), text_rows: range = range(0)
) -> BlockTable:
    """A table of the blocks that hold a share of each row's weight, and all of text; arguments as elsewhere here."""
    mask = blocks_of_mass(weights, mass)
    mask[..., text.start : text.stop] = True
    mask[..., text_rows.start : text_rows.stop, :] = True
    lut, counts = table_of(mask)
    return BlockTable(lut=lut, counts=counts, num_key_blocks=mask.shape[-1], block_q=block_q, block_k=block_k)
