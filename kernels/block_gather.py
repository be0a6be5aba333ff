"""Block-sparse attention on the CPU, in PyTorch: gather the key blocks of one block of queries, and attend to those.

One call of torch's own flash attention for every block of queries of every head; what the table leaves out is neither
read nor multiplied. ``docs/attention.md`` has measured where that beats a dense call.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reads:
    """The keys that one block of queries reads: whole blocks, or single tokens where some of them are padding.

    Attributes:
        blocks: int64 [c], ascending; ``None``: all of them.
        length: Tokens in them, the last one possibly ragged.
        tokens: int64, instead of blocks.
    """

    blocks: Tensor | None
    length: int
    tokens: Tensor | None = None


def run_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lut: Tensor,
    counts: Tensor,
    key_mask: Tensor | None,
    scale: float,
    block_q: int,
    block_k: int,
) -> tuple[Tensor, Tensor]:
    """Output [B, Nq, H, D], and the log-sum-exp [B, H, Nq] in fp32 (fp64 of fp64)."""
    batch, num_queries, heads, _ = q.shape
    out = torch.zeros(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.full((batch, heads, num_queries), -torch.inf, dtype=_summed(q.dtype), device=q.device)
    for sample in range(batch):
        for head in range(heads):
            queries = q[sample, :, head].contiguous()
            keys, values = _cut(k[sample, :, head], block_k), _cut(v[sample, :, head], block_k)
            table = (*_of(lut, counts, sample, head), _mask_of(key_mask, sample))
            for rows, reads in _rows(*table, num_queries, k.shape[1], block_q, block_k):
                part, log_sum = _flash(
                    queries[rows][None, None],
                    _gathered(keys, reads)[None, None],
                    _gathered(values, reads)[None, None],
                    scale=scale,
                )
                out[sample, rows, head] = part[0, 0]
                lse[sample, head, rows] = log_sum[0, 0].to(lse.dtype)
    return out, lse


def run_backward(
    d_out: Tensor,
    d_lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    lut: Tensor,
    counts: Tensor,
    key_mask: Tensor | None,
    scale: float,
    block_q: int,
    block_k: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """dQ, dK and dV; formulas as in :mod:`dit_accel.kernels.block_sparse_backward`, summed in fp32 (fp64 of fp64)."""
    batch, num_queries, heads, _ = q.shape
    dtype = lse.dtype
    delta = torch.einsum("bnhd,bnhd->bhn", out.to(dtype), d_out.to(dtype)) - d_lse
    d_q, d_k, d_v = (torch.zeros(each.shape, dtype=dtype, device=q.device) for each in (q, k, v))
    for sample in range(batch):
        for head in range(heads):
            queries, grads = q[sample, :, head].to(dtype), d_out[sample, :, head].to(dtype)
            keys, values = (_cut(each[sample, :, head].to(dtype), block_k) for each in (k, v))
            table = (*_of(lut, counts, sample, head), _mask_of(key_mask, sample))
            for rows, reads in _rows(*table, num_queries, k.shape[1], block_q, block_k):
                query, grad, key, value = queries[rows], grads[rows], _gathered(keys, reads), _gathered(values, reads)
                weights = (query @ key.T * scale - lse[sample, head, rows, None]).exp()
                d_scores = weights * (grad @ value.T - delta[sample, head, rows, None]) * scale
                d_q[sample, rows, head] = d_scores @ key
                places = _tokens(reads, block_k, q.device)
                d_k[sample, :, head].index_add_(0, places, d_scores.T @ query)
                d_v[sample, :, head].index_add_(0, places, weights.T @ grad)
    return d_q.to(q.dtype), d_k.to(k.dtype), d_v.to(v.dtype)


def _rows(
    lut: Tensor,
    counts: list[int],
    key_mask: Tensor | None,
    num_queries: int,
    num_keys: int,
    block_q: int,
    block_k: int,
) -> Iterator[tuple[slice, _Reads]]:
    """Each block of queries that reads anything, with what it reads. ``lut`` int64 [Mq, K]."""
    num_key_blocks = -(-num_keys // block_k)
    missing = num_key_blocks * block_k - num_keys
    for row, count in enumerate(counts):
        if count == 0:
            continue
        rows = slice(row * block_q, min((row + 1) * block_q, num_queries))
        blocks = lut[row, :count]
        # Blocks ascend, so only the last one can be the ragged one.
        ragged = missing if missing and int(blocks[-1]) == num_key_blocks - 1 else 0
        reads = _Reads(blocks=None if count == num_key_blocks else blocks, length=count * block_k - ragged)
        if key_mask is not None:
            tokens = _tokens(reads, block_k, lut.device)
            tokens = tokens[key_mask[tokens]]
            if not len(tokens):
                continue
            reads = _Reads(blocks=None, length=len(tokens), tokens=tokens)
        yield rows, reads


def _gathered(cut: Tensor, reads: _Reads) -> Tensor:
    """[c, D] of [Mk, block_k, D]."""
    if reads.tokens is not None:
        return cut.flatten(0, 1)[reads.tokens]
    chosen = cut if reads.blocks is None else cut.index_select(0, reads.blocks)
    return chosen.flatten(0, 1)[: reads.length]


def _tokens(reads: _Reads, block_k: int, device: torch.device) -> Tensor:
    if reads.tokens is not None:
        return reads.tokens
    if reads.blocks is None:
        return torch.arange(reads.length, device=device)
    return (reads.blocks[:, None] * block_k + torch.arange(block_k, device=device)).flatten()[: reads.length]


def _cut(sequence: Tensor, block: int) -> Tensor:
    """[N, D] -> [M, block, D], the last block filled up with zeros that are never read."""
    missing = -len(sequence) % block
    whole = pad(sequence, (0, 0, 0, missing)) if missing else sequence.contiguous()
    return whole.view(-1, block, sequence.shape[-1])


def _of(lut: Tensor, counts: Tensor, sample: int, head: int) -> tuple[Tensor, list[int]]:
    sample, head = min(sample, lut.shape[0] - 1), min(head, lut.shape[1] - 1)
    return lut[sample, head].to(torch.int64), counts[sample, head].tolist()


def _mask_of(key_mask: Tensor | None, sample: int) -> Tensor | None:
    return None if key_mask is None else key_mask[min(sample, len(key_mask) - 1)]


def _summed(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
