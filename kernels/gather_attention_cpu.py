"""Attention over blocks that single queries chose, in PyTorch: block by block, with those who chose it.

What was not chosen is neither read nor multiplied; the parts are merged as they come.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def run_forward(
    q: Tensor, k: Tensor, v: Tensor, chosen: Tensor, tokens: Tensor, starts: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Output [B, Nq, H, D], and the log-sum-exp [B, H, Nq] in fp32 (fp64 of fp64)."""
    batch, num_queries, heads, _ = q.shape
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    out = torch.zeros(q.shape, dtype=dtype, device=q.device)
    lse = torch.full((batch, heads, num_queries), -torch.inf, dtype=dtype, device=q.device)
    for sample, head, queries, keys in _turns(chosen, tokens, starts):
        part, part_lse = _flash(
            q[sample, queries, head][None, None],
            k[sample, keys, head][None, None],
            v[sample, keys, head][None, None],
            scale=scale,
        )
        before, own = lse[sample, head, queries], part_lse[0, 0].to(dtype)
        after = torch.logaddexp(before, own)
        kept = out[sample, queries, head] * (before - after).exp()[:, None]
        out[sample, queries, head] = kept + part[0, 0].to(dtype) * (own - after).exp()[:, None]
        lse[sample, head, queries] = after
    return out.to(q.dtype), lse


def run_backward(
    d_out: Tensor,
    delta: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lse: Tensor,
    chosen: Tensor,
    tokens: Tensor,
    starts: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """dQ, dK and dV; ``delta`` [B, H, Nq] is rowsum(O * dO) less the gradient of the log-sum-exp."""
    dtype = lse.dtype
    d_q, d_k, d_v = (torch.zeros(each.shape, dtype=dtype, device=q.device) for each in (q, k, v))
    for sample, head, queries, keys in _turns(chosen, tokens, starts):
        query, grad = q[sample, queries, head].to(dtype), d_out[sample, queries, head].to(dtype)
        key, value = k[sample, keys, head].to(dtype), v[sample, keys, head].to(dtype)
        weights = (query @ key.T * scale - lse[sample, head, queries, None]).exp()
        d_scores = weights * (grad @ value.T - delta[sample, head, queries, None]) * scale
        d_q[sample, queries, head] += d_scores @ key
        d_k[sample, keys, head] = d_scores.T @ query
        d_v[sample, keys, head] = weights.T @ grad
    return d_q.to(q.dtype), d_k.to(k.dtype), d_v.to(v.dtype)


def _turns(chosen: Tensor, tokens: Tensor, starts: Tensor) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Sample, head, the queries that chose a block, and its keys: for every block that anybody chose."""
    batch, heads, blocks, _ = chosen.shape
    borders = starts.tolist()
    keys = [tokens[borders[block] : borders[block + 1]].long() for block in range(blocks)]
    for sample in range(batch):
        for head in range(heads):
            for block in range(blocks):
                queries = chosen[sample, head, block].nonzero()[:, 0]
                if len(queries):
                    yield sample, head, queries, keys[block]
