"""Launching the kernels of attention over chosen blocks: a few heads at a time, for the sake of memory."""

from collections.abc import Iterator
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from dit_accel.kernels.block_sparse_launch import INTERPRETED, Launch, accumulated, start, stored
from dit_accel.kernels.block_table import num_blocks
from dit_accel.kernels.gather_attention_backward import gather_d_key_kernel, gather_d_query_kernel
from dit_accel.kernels.gather_attention_triton import gather_forward_kernel, merge_kernel
from dit_accel.kernels.gather_pairs import Pairs, tiles_of

BYTES_AT_ONCE = 1 << 30
"""Of parts that lie in the buffer at a time, one row for every pair of a query and a block."""


def run_forward(
    q: Tensor, k: Tensor, v: Tensor, chosen: Tensor, tokens: Tensor, starts: Tensor, scale: float, capacity: int
) -> tuple[Tensor, Tensor]:
    """Output [B, Nq, H, D] in the dtype of ``q``, and the log-sum-exp [B, H, Nq] in fp32 (fp64 of fp64)."""
    batch, num_queries, heads, _ = q.shape
    out = torch.empty(q.shape, dtype=stored(q.dtype), device=q.device)
    lse = torch.empty(batch, heads, num_queries, dtype=accumulated(q.dtype), device=q.device)
    for some, pairs in _heads_in_turn(q, chosen, capacity):
        each = _Group(q[:, :, some], k[:, :, some], v[:, :, some], pairs, tokens, starts, scale)
        parts = each.buffer()
        part_lse = torch.empty(parts.shape[:2], dtype=accumulated(q.dtype), device=q.device)
        start(
            gather_forward_kernel,
            each.grid_of_pairs,
            each.launch,
            (
                *(each.q, each.k, each.v, parts, part_lse, pairs.queries, pairs.starts, *each.tiles, tokens, starts),
                *(*each.strides, each.heads, each.blocks, parts.shape[1], each.tiles[0].shape[1], scale),
            ),
            each.constants,
        )
        own, own_lse = out[:, :, some], torch.empty_like(lse[:, some])
        each.merge(parts, part_lse, own, own_lse)
        lse[:, some] = own_lse
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
    capacity: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """dQ, dK and dV in the dtypes of ``q``, ``k`` and ``v``; ``delta`` [B, H, Nq]."""
    d_q = torch.empty(q.shape, dtype=stored(q.dtype), device=q.device)
    d_k = torch.zeros(k.shape, dtype=stored(k.dtype), device=k.device)
    d_v = torch.zeros_like(d_k)
    for some, pairs in _heads_in_turn(q, chosen, capacity):
        each = _Group(q[:, :, some], k[:, :, some], v[:, :, some], pairs, tokens, starts, scale)
        grad, own_lse, own_delta = d_out[:, :, some], lse[:, some].contiguous(), delta[:, some].contiguous()
        parts = each.buffer()
        inputs = (each.q, each.k, each.v, grad, own_lse, own_delta)
        lists, keys = (pairs.queries, pairs.starts), (tokens, starts)
        sizes = (each.heads, each.blocks, parts.shape[1])
        start(
            gather_d_query_kernel,
            each.grid_of_pairs,
            each.launch,
            (
                *(*inputs, parts, *lists, *each.tiles, *keys, *each.strides, *grad.stride()),
                *(*sizes, each.tiles[0].shape[1], q.shape[1], scale),
            ),
            each.constants,
        )
        each.merge(parts, None, d_q[:, :, some], None)
        tiles = tiles_of(starts, each.launch.tile_k, k.shape[1])
        grid = (len(tiles[0]), each.pairs_of_heads)
        start(
            gather_d_key_kernel,
            lambda grid=grid: grid,  # type: ignore[misc]
            each.launch,
            (
                *(*inputs, d_k[:, :, some], d_v[:, :, some], *lists, *tiles, *keys, *each.strides, *grad.stride()),
                *(*d_k[:, :, some].stride()[:3], *sizes, len(tiles[0]), q.shape[1], scale),
            ),
            each.constants,
        )
    return d_q.to(q.dtype), d_k.to(k.dtype), d_v.to(v.dtype)


class _Group:
    """Some heads that are computed together."""

    def __init__(
        self, q: Tensor, k: Tensor, v: Tensor, pairs: Pairs, tokens: Tensor, starts: Tensor, scale: float
    ) -> None:
        self.q, self.k, self.v, self.pairs, self.scale = q, k, v, pairs, scale
        self.batch, self.num_queries, self.heads, self.head_dim = q.shape
        self.blocks = len(starts) - 1
        self.pairs_of_heads = self.batch * self.heads
        wide = self.head_dim > 64
        tile_q = 16 if INTERPRETED else 64
        self.launch = Launch(tile_q=tile_q, tile_k=tile_q, num_warps=8 if wide else 4, num_stages=2 if wide else 3)
        self.tiles = tiles_of(pairs.starts, self.launch.tile_q, pairs.queries.shape[1])
        self.strides = (*q.stride(), *k.stride(), *v.stride())
        self.constants: dict[str, Any] = {
            "D": self.head_dim,
            "TILE_Q": self.launch.tile_q,
            "TILE_K": self.launch.tile_k,
            "ACC": tl.float64 if q.dtype == torch.float64 else tl.float32,
            "UPCAST": INTERPRETED and q.dtype == torch.bfloat16,
            "PRECISION": "ieee",
        }

    def grid_of_pairs(self) -> tuple[int, int]:
        return self.tiles[0].shape[1], self.pairs_of_heads

    def buffer(self) -> Tensor:
        """[B * H, P, D]."""
        size = (self.pairs_of_heads, self.pairs.queries.shape[1], self.head_dim)
        return torch.empty(size, dtype=stored(self.q.dtype), device=self.q.device)

    def merge(self, parts: Tensor, part_lse: Tensor | None, out: Tensor, lse: Tensor | None) -> None:
        """By log-sum-exps, or, without any, added up and multiplied by the scale."""
        start(
            merge_kernel,
            lambda: (num_blocks(self.num_queries, self.launch.tile_q), self.pairs_of_heads),
            self.launch,
            (
                *(parts, part_lse, self.pairs.slots, out, lse, *out.stride()[:3]),
                *(self.heads, self.blocks, parts.shape[1], self.num_queries, self.scale),
            ),
            {
                "D": self.head_dim,
                "TILE": self.launch.tile_q,
                "ACC": self.constants["ACC"],
                "WEIGHTED": part_lse is not None,
            },
        )


def _heads_in_turn(q: Tensor, chosen: Tensor, capacity: int) -> Iterator[tuple[slice, Pairs]]:
    batch, _, heads, head_dim = q.shape
    most = capacity or chosen.shape[2] * chosen.shape[3]
    at_once = max(1, min(heads, BYTES_AT_ONCE // (batch * most * head_dim * q.element_size())))
    for first in range(0, heads, at_once):
        some = slice(first, first + at_once)
        yield some, Pairs.of(chosen[:, some], capacity)
