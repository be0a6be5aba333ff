"""The gradients of attention over blocks that single queries chose, in Triton.

With P = exp(S - lse) of the *merged* log-sum-exp, dS = P * (dO V^T - delta), delta = rowsum(O * dO) - d_lse. dQ of
each pair lies in a buffer and is added up by :func:`~dit_accel.kernels.gather_attention_triton.merge_kernel`; dK and
dV have one owner each, since every key is in one block.
"""

import triton
import triton.language as tl

from dit_accel.kernels.gather_attention_triton import queries_of_tile
from dit_accel.kernels.tiles import LOG2_E, gradient_of_queries, pair_of, rows_at


@triton.jit(do_not_specialize=["num_blocks", "num_pairs", "num_tiles", "num_queries"])
def gather_d_query_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    d_out_ptr,
    lse_ptr,
    delta_ptr,
    part_ptr,
    queries_ptr,
    pair_starts_ptr,
    tile_block_ptr,
    tile_first_ptr,
    tokens_ptr,
    key_starts_ptr,
    q_stride_b,
    q_stride_n,
    q_stride_h,
    q_stride_d,
    k_stride_b,
    k_stride_n,
    k_stride_h,
    k_stride_d,
    v_stride_b,
    v_stride_n,
    v_stride_h,
    v_stride_d,
    d_out_stride_b,
    d_out_stride_n,
    d_out_stride_h,
    d_out_stride_d,
    num_heads,
    num_blocks,
    num_pairs,
    num_tiles,
    num_queries,
    scale,
    D: tl.constexpr,
    TILE_Q: tl.constexpr,
    TILE_K: tl.constexpr,
    ACC: tl.constexpr,
    UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dQ / scale of one tile of the queries of one block. Grid: (tiles, B * H)."""
    pair, batch, head = pair_of(num_heads)
    block, is_tile, places, query, is_query = queries_of_tile(
        tile_block_ptr, tile_first_ptr, pair_starts_ptr, queries_ptr, pair, num_tiles, num_blocks, num_pairs, TILE_Q
    )
    dims = tl.arange(0, D)
    q = rows_at(q_ptr + batch * q_stride_b + head * q_stride_h, query, q_stride_n, dims, q_stride_d, is_query, UPCAST)
    d_out_base = d_out_ptr + batch * d_out_stride_b + head * d_out_stride_h
    d_out = rows_at(d_out_base, query, d_out_stride_n, dims, d_out_stride_d, is_query, UPCAST)
    log2_lse = tl.load(lse_ptr + pair * num_queries + query, mask=is_query, other=float("inf")) * LOG2_E
    delta = tl.load(delta_ptr + pair * num_queries + query, mask=is_query, other=0.0)
    k_base = k_ptr + batch * k_stride_b + head * k_stride_h
    v_base = v_ptr + batch * v_stride_b + head * v_stride_h
    first_key = tl.load(key_starts_ptr + block, mask=is_tile, other=0)
    last_key = tl.load(key_starts_ptr + block + 1, mask=is_tile, other=0)
    log2_scale = scale * LOG2_E
    acc = tl.zeros([TILE_Q, D], ACC)
    for start in range(first_key, last_key, TILE_K):
        place = start + tl.arange(0, TILE_K)
        is_key = place < last_key
        key = tl.load(tokens_ptr + place, mask=is_key, other=0).to(tl.int64)
        k = rows_at(k_base, key, k_stride_n, dims, k_stride_d, is_key, UPCAST)
        v = rows_at(v_base, key, v_stride_n, dims, v_stride_d, is_key, UPCAST)
        d_scores = gradient_of_queries(q, k, v, d_out, log2_lse, delta, is_key, log2_scale, ACC, PRECISION)
        acc += tl.dot(d_scores.to(k.dtype), k, input_precision=PRECISION, out_dtype=ACC)
    tl.store(part_ptr + places[:, None] * D + dims[None, :], acc.to(part_ptr.dtype.element_ty), mask=is_query[:, None])


@triton.jit(do_not_specialize=["num_blocks", "num_pairs", "num_tiles", "num_queries"])
def gather_d_key_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    d_out_ptr,
    lse_ptr,
    delta_ptr,
    d_k_ptr,
    d_v_ptr,
    queries_ptr,
    pair_starts_ptr,
    tile_block_ptr,
    tile_first_ptr,
    tokens_ptr,
    key_starts_ptr,
    q_stride_b,
    q_stride_n,
    q_stride_h,
    q_stride_d,
    k_stride_b,
    k_stride_n,
    k_stride_h,
    k_stride_d,
    v_stride_b,
    v_stride_n,
    v_stride_h,
    v_stride_d,
    d_out_stride_b,
    d_out_stride_n,
    d_out_stride_h,
    d_out_stride_d,
    d_k_stride_b,
    d_k_stride_n,
    d_k_stride_h,
    num_heads,
    num_blocks,
    num_pairs,
    num_tiles,
    num_queries,
    scale,
    D: tl.constexpr,
    TILE_Q: tl.constexpr,
    TILE_K: tl.constexpr,
    ACC: tl.constexpr,
    UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dK and dV of one tile of the keys of one block. Grid: (tiles of keys, B * H); tiles are the same for all heads.
    dK and dV [B, Nk, H, D] share their strides, D contiguous."""
    pair, batch, head = pair_of(num_heads)
    block = tl.load(tile_block_ptr + tl.program_id(0))
    is_tile = block < num_blocks
    first_key = tl.load(tile_first_ptr + tl.program_id(0))
    last_key = tl.load(key_starts_ptr + block + 1, mask=is_tile, other=0)
    dims = tl.arange(0, D)
    place = first_key + tl.arange(0, TILE_K)
    is_key = place < last_key
    key = tl.load(tokens_ptr + place, mask=is_key, other=0).to(tl.int64)
    k = rows_at(k_ptr + batch * k_stride_b + head * k_stride_h, key, k_stride_n, dims, k_stride_d, is_key, UPCAST)
    v = rows_at(v_ptr + batch * v_stride_b + head * v_stride_h, key, v_stride_n, dims, v_stride_d, is_key, UPCAST)
    q_base = q_ptr + batch * q_stride_b + head * q_stride_h
    d_out_base = d_out_ptr + batch * d_out_stride_b + head * d_out_stride_h
    first = tl.load(pair_starts_ptr + pair * (num_blocks + 1) + block, mask=is_tile, other=0)
    last = tl.load(pair_starts_ptr + pair * (num_blocks + 1) + block + 1, mask=is_tile, other=0)
    log2_scale = scale * LOG2_E
    d_k = tl.zeros([TILE_K, D], ACC)
    d_v = tl.zeros([TILE_K, D], ACC)
    for start in range(first, last, TILE_Q):
        slots = start + tl.arange(0, TILE_Q)
        is_query = slots < last
        query = tl.load(queries_ptr + pair * num_pairs + slots, mask=is_query, other=0).to(tl.int64)
        q = rows_at(q_base, query, q_stride_n, dims, q_stride_d, is_query, UPCAST)
        d_out = rows_at(d_out_base, query, d_out_stride_n, dims, d_out_stride_d, is_query, UPCAST)
        log2_lse = tl.load(lse_ptr + pair * num_queries + query, mask=is_query, other=float("inf")) * LOG2_E
        delta = tl.load(delta_ptr + pair * num_queries + query, mask=is_query, other=0.0)
        scores = tl.dot(k, tl.trans(q), input_precision=PRECISION, out_dtype=ACC) * log2_scale
        weights = tl.where(is_key[:, None], tl.exp2(scores - log2_lse[None, :]), 0.0)
        # Used up before the next product is made: both at once do not fit into the registers.
        d_v += tl.dot(weights.to(d_out.dtype), d_out, input_precision=PRECISION, out_dtype=ACC)
        d_weights = tl.dot(v, tl.trans(d_out), input_precision=PRECISION, out_dtype=ACC)
        d_scores = weights * (d_weights - delta[None, :])
        d_k += tl.dot(d_scores.to(q.dtype), q, input_precision=PRECISION, out_dtype=ACC)
    at = batch * d_k_stride_b + head * d_k_stride_h + key[:, None] * d_k_stride_n + dims[None, :]
    tl.store(d_k_ptr + at, (d_k * scale).to(d_k_ptr.dtype.element_ty), mask=is_key[:, None])
    tl.store(d_v_ptr + at, d_v.to(d_v_ptr.dtype.element_ty), mask=is_key[:, None])
