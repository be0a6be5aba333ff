"""The gradients of :mod:`dit_accel.kernels.block_sparse_forward`, in Triton, without atomic operations.

FlashAttention-2, algorithm 2, as two kernels: one runs over the queries with the table, one over the keys with the
table seen from the keys (:mod:`.block_sparse_backward_keys`). With s the scaled scores, P = exp(s - lse) and
delta = rowsum(out * d_out) - d_lse:

    ds = P * (d_out V^T - delta),   dQ = scale * ds K,   dK = scale * ds^T Q,   dV = P^T d_out

The gradient of the log-sum-exp is P itself, so it only moves delta.
"""

import triton
import triton.language as tl

from dit_accel.kernels.tiles import LOG2_E, gradient_of_queries, log2_of, pair_of, rows_at


@triton.jit(do_not_specialize=["num_queries"])
def delta_kernel(
    out_ptr,
    d_out_ptr,
    d_lse_ptr,
    delta_ptr,
    out_stride_b,
    out_stride_n,
    out_stride_h,
    out_stride_d,
    d_out_stride_b,
    d_out_stride_n,
    d_out_stride_h,
    d_out_stride_d,
    d_lse_stride_b,
    d_lse_stride_h,
    d_lse_stride_n,
    num_heads,
    num_queries,
    D: tl.constexpr,
    TILE_Q: tl.constexpr,
    ACC: tl.constexpr,
):
    """delta of one tile of queries. Grid: (tiles of queries, B * H). ``delta`` [B, H, Nq] contiguous."""
    pair, batch, head = pair_of(num_heads)
    rows = (tl.program_id(0) * TILE_Q).to(tl.int64) + tl.arange(0, TILE_Q)
    dims = tl.arange(0, D)
    is_query = rows < num_queries
    out_base = out_ptr + batch * out_stride_b + head * out_stride_h
    d_out_base = d_out_ptr + batch * d_out_stride_b + head * d_out_stride_h
    out = rows_at(out_base, rows, out_stride_n, dims, out_stride_d, is_query, False).to(ACC)
    d_out = rows_at(d_out_base, rows, d_out_stride_n, dims, d_out_stride_d, is_query, False).to(ACC)
    d_lse = tl.load(
        d_lse_ptr + batch * d_lse_stride_b + head * d_lse_stride_h + rows * d_lse_stride_n, mask=is_query, other=0.0
    ).to(ACC)
    tl.store(delta_ptr + pair * num_queries + rows, tl.sum(out * d_out, 1) - d_lse, mask=is_query)


@triton.jit(do_not_specialize=["num_queries", "num_keys"])
def d_query_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    d_out_ptr,
    lse_ptr,
    delta_ptr,
    d_q_ptr,
    lut_ptr,
    counts_ptr,
    key_mask_ptr,
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
    d_q_stride_b,
    d_q_stride_n,
    d_q_stride_h,
    lut_stride_b,
    lut_stride_h,
    lut_stride_m,
    counts_stride_b,
    counts_stride_h,
    key_mask_stride_b,
    num_heads,
    num_queries,
    num_keys,
    scale,
    D: tl.constexpr,
    TILE_Q: tl.constexpr,
    TILE_K: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    HAS_KEY_MASK: tl.constexpr,
    ACC: tl.constexpr,
    UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dQ of one tile of queries. Grid: (tiles of queries, B * H). dQ [B, Nq, H, D] with D contiguous."""
    tile = tl.program_id(0)
    pair, batch, head = pair_of(num_heads)
    row = (tile * TILE_Q // BLOCK_Q).to(tl.int64)
    first = (tile * TILE_Q).to(tl.int64)

    in_tile_q = tl.arange(0, TILE_Q)
    in_tile_k = tl.arange(0, TILE_K)
    dims = tl.arange(0, D)
    is_query = first + in_tile_q < num_queries

    q_base = q_ptr + batch * q_stride_b + head * q_stride_h + first * q_stride_n
    d_out_base = d_out_ptr + batch * d_out_stride_b + head * d_out_stride_h + first * d_out_stride_n
    q = rows_at(q_base, in_tile_q, q_stride_n, dims, q_stride_d, is_query, UPCAST)
    d_out = rows_at(d_out_base, in_tile_q, d_out_stride_n, dims, d_out_stride_d, is_query, UPCAST)
    per_query = pair * num_queries + first + in_tile_q
    log2_lse = log2_of(tl.load(lse_ptr + per_query, mask=is_query, other=float("-inf")))
    delta = tl.load(delta_ptr + per_query, mask=is_query, other=0.0)

    k_base = k_ptr + batch * k_stride_b + head * k_stride_h
    v_base = v_ptr + batch * v_stride_b + head * v_stride_h
    lut_row = lut_ptr + batch * lut_stride_b + head * lut_stride_h + row * lut_stride_m
    count = tl.load(counts_ptr + batch * counts_stride_b + head * counts_stride_h + row)
    log2_scale = scale * LOG2_E
    acc = tl.zeros([TILE_Q, D], ACC)
    TILES: tl.constexpr = BLOCK_K // TILE_K
    for turn in range(count * TILES):
        block = tl.load(lut_row + turn // TILES).to(tl.int64)
        start = block * BLOCK_K + (turn % TILES) * TILE_K
        is_key = start + in_tile_k < num_keys
        k = rows_at(k_base + start * k_stride_n, in_tile_k, k_stride_n, dims, k_stride_d, is_key, UPCAST)
        v = rows_at(v_base + start * v_stride_n, in_tile_k, v_stride_n, dims, v_stride_d, is_key, UPCAST)
        if HAS_KEY_MASK:
            is_key &= tl.load(key_mask_ptr + batch * key_mask_stride_b + start + in_tile_k, mask=is_key, other=0) != 0
        d_scores = gradient_of_queries(q, k, v, d_out, log2_lse, delta, is_key, log2_scale, ACC, PRECISION)
        acc += tl.dot(d_scores.to(k.dtype), k, input_precision=PRECISION, out_dtype=ACC)

    tl.store(
        d_q_ptr
        + batch * d_q_stride_b
        + head * d_q_stride_h
        + first * d_q_stride_n
        + in_tile_q[:, None] * d_q_stride_n
        + dims[None, :],
        (acc * scale).to(d_q_ptr.dtype.element_ty),
        mask=is_query[:, None],
    )
