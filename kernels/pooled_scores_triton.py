"""Sums, maxima and small-counts of softmax weights by blocks, in Triton: no weight is ever written.

Each block of queries goes over all keys twice: once for what its rows add up to, once for the weights, which are then
counted up where they are. Twice the products of attention without values, and memory for the results alone.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from dit_accel.kernels.block_sparse_launch import INTERPRETED, Launch, accumulated, start
from dit_accel.kernels.block_table import num_blocks
from dit_accel.kernels.tiles import LOG2_E, pair_of, rows_at


@triton.jit(do_not_specialize=["num_queries", "num_keys"])
def pooled_scores_kernel(
    q_ptr,
    k_ptr,
    sums_ptr,
    maxima_ptr,
    small_ptr,
    q_stride_b,
    q_stride_n,
    q_stride_h,
    q_stride_d,
    k_stride_b,
    k_stride_n,
    k_stride_h,
    k_stride_d,
    num_heads,
    num_queries,
    num_keys,
    scale,
    limit,
    D: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TILE_K: tl.constexpr,
    ACC: tl.constexpr,
    UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One block of queries of one head. Grid: (blocks of queries, B * H). Results [B * H, Mq, Mk] contiguous."""
    row = tl.program_id(0)
    pair, batch, head = pair_of(num_heads)
    first = (row * BLOCK_Q).to(tl.int64)
    in_block = tl.arange(0, BLOCK_Q)
    in_tile = tl.arange(0, TILE_K)
    dims = tl.arange(0, D)
    is_query = first + in_block < num_queries
    q_base = q_ptr + batch * q_stride_b + head * q_stride_h + first * q_stride_n
    q = rows_at(q_base, in_block, q_stride_n, dims, q_stride_d, is_query, UPCAST)
    k_base = k_ptr + batch * k_stride_b + head * k_stride_h
    log2_scale = scale * LOG2_E
    highest = tl.full([BLOCK_Q], float("-inf"), ACC)
    total = tl.zeros([BLOCK_Q], ACC)
    for first_key in range(0, num_keys, TILE_K):
        is_key = first_key + in_tile < num_keys
        key = (first_key + in_tile).to(tl.int64)
        k = rows_at(k_base, key, k_stride_n, dims, k_stride_d, is_key, UPCAST)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION, out_dtype=ACC) * log2_scale
        scores = tl.where(is_key[None, :], scores, float("-inf"))
        new_highest = tl.maximum(highest, tl.max(scores, 1))
        total = total * tl.exp2(highest - new_highest) + tl.sum(tl.exp2(scores - new_highest[:, None]), 1)
        highest = new_highest
    log2_lse = highest + tl.log2(total)
    num_key_blocks = tl.cdiv(num_keys, BLOCK_K)
    out = (pair * tl.num_programs(0) + row) * num_key_blocks
    TILES: tl.constexpr = BLOCK_K // TILE_K
    for block in range(num_key_blocks):
        sums = tl.zeros([BLOCK_Q], ACC)
        maxima = tl.zeros([BLOCK_Q], ACC)
        small = tl.zeros([BLOCK_Q], tl.int32)
        for tile in range(TILES):
            key = (block * BLOCK_K + tile * TILE_K + in_tile).to(tl.int64)
            is_key = key < num_keys
            k = rows_at(k_base, key, k_stride_n, dims, k_stride_d, is_key, UPCAST)
            scores = tl.dot(q, tl.trans(k), input_precision=PRECISION, out_dtype=ACC) * log2_scale
            is_pair = is_query[:, None] & is_key[None, :]
            weights = tl.where(is_pair, tl.exp2(scores - log2_lse[:, None]), 0.0)
            sums += tl.sum(weights, 1)
            maxima = tl.maximum(maxima, tl.max(weights, 1))
            small += tl.sum((is_pair & (weights < limit)).to(tl.int32), 1)
        tl.store(sums_ptr + out + block, tl.sum(sums, 0))
        tl.store(maxima_ptr + out + block, tl.max(maxima, 0))
        tl.store(small_ptr + out + block, tl.sum(small, 0).to(ACC))


def run(
    q: Tensor, k: Tensor, *, scale: float, block_q: int, block_k: int, small: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums, maxima and counts, fp32 [B, H, Mq, Mk] (fp64 of fp64)."""
    batch, num_queries, heads, head_dim = q.shape
    num_keys = k.shape[1]
    size = (batch, heads, num_blocks(num_queries, block_q), num_blocks(num_keys, block_k))
    found = torch.empty(3, *size, dtype=accumulated(q.dtype), device=q.device)
    wide = head_dim > 64 or block_q > 64
    start(
        pooled_scores_kernel,
        lambda: (size[2], batch * heads),
        Launch(tile_q=block_q, tile_k=min(block_k, 64), num_warps=8 if wide else 4, num_stages=3),
        (
            *(q, k, *found, *q.stride(), *k.stride()),
            *(heads, num_queries, num_keys, scale, small),
        ),
        {
            "D": head_dim,
            "BLOCK_Q": block_q,
            "BLOCK_K": block_k,
            "TILE_K": min(block_k, 64),
            "ACC": tl.float64 if q.dtype == torch.float64 else tl.float32,
            "UPCAST": INTERPRETED and q.dtype == torch.bfloat16,
            "PRECISION": "ieee",
        },
    )
    sums, maxima, few = found
    return sums, maxima, few
