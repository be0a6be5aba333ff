"""The gradients of :mod:`dit_accel.kernels.block_sparse_forward`, in Triton, without atomic operations.

FlashAttention-2, algorithm 2, as two kernels: one runs over the queries with the table, one over the keys with the
table seen from the keys (:mod:`.block_sparse_backward_keys`). With s the scaled scores, P = exp(s - lse) and
delta = rowsum(out * d_out) - d_lse:

    ds = P * (d_out V^T - delta),   dQ = scale * ds K,   dK = scale * ds^T Q,   dV = P^T d_out

The gradient of the log-sum-exp is P itself, so it only moves delta.
"""

import triton
import triton.language as tl

from dit_accel.kernels.block_sparse_forward import LOG2_E


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
    batch = (tl.program_id(1) // num_heads).to(tl.int64)
    head = (tl.program_id(1) % num_heads).to(tl.int64)
    rows = (tl.program_id(0) * TILE_Q).to(tl.int64) + tl.arange(0, TILE_Q)
    dims = tl.arange(0, D)
    is_query = rows < num_queries
    out = tl.load(
        out_ptr
        + batch * out_stride_b
        + head * out_stride_h
        + rows[:, None] * out_stride_n
        + dims[None, :] * out_stride_d,
        mask=is_query[:, None],
        other=0.0,
    ).to(ACC)
    d_out = tl.load(
        d_out_ptr
        + batch * d_out_stride_b
        + head * d_out_stride_h
        + rows[:, None] * d_out_stride_n
        + dims[None, :] * d_out_stride_d,
        mask=is_query[:, None],
        other=0.0,
    ).to(ACC)
    d_lse = tl.load(
        d_lse_ptr + batch * d_lse_stride_b + head * d_lse_stride_h + rows * d_lse_stride_n, mask=is_query, other=0.0
    ).to(ACC)
    tl.store(
        delta_ptr + (batch * num_heads + head) * num_queries + rows, tl.sum(out * d_out, 1) - d_lse, mask=is_query
    )


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
    batch = (tl.program_id(1) // num_heads).to(tl.int64)
    head = (tl.program_id(1) % num_heads).to(tl.int64)
    row = (tile * TILE_Q // BLOCK_Q).to(tl.int64)
    first = (tile * TILE_Q).to(tl.int64)

    in_tile_q = tl.arange(0, TILE_Q)
    in_tile_k = tl.arange(0, TILE_K)
    dims = tl.arange(0, D)
    is_query = first + in_tile_q < num_queries

    q = tl.load(
        q_ptr
        + batch * q_stride_b
        + head * q_stride_h
        + first * q_stride_n
        + in_tile_q[:, None] * q_stride_n
        + dims[None, :] * q_stride_d,
        mask=is_query[:, None],
        other=0.0,
    )
    d_out = tl.load(
        d_out_ptr
        + batch * d_out_stride_b
        + head * d_out_stride_h
        + first * d_out_stride_n
        + in_tile_q[:, None] * d_out_stride_n
        + dims[None, :] * d_out_stride_d,
        mask=is_query[:, None],
        other=0.0,
    )
    if UPCAST:
        q = q.to(tl.float32)
        d_out = d_out.to(tl.float32)
    per_query = (batch * num_heads + head) * num_queries + first + in_tile_q
    lse = tl.load(lse_ptr + per_query, mask=is_query, other=float("-inf"))
    # A row without a key has no weights: exp2(s - inf) = 0.
    log2_lse = tl.where(lse == float("-inf"), float("inf"), lse * LOG2_E)
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
        k = tl.load(
            k_base + start * k_stride_n + in_tile_k[:, None] * k_stride_n + dims[None, :] * k_stride_d,
            mask=is_key[:, None],
            other=0.0,
        )
        v = tl.load(
            v_base + start * v_stride_n + in_tile_k[:, None] * v_stride_n + dims[None, :] * v_stride_d,
            mask=is_key[:, None],
            other=0.0,
        )
        if UPCAST:
            k = k.to(tl.float32)
            v = v.to(tl.float32)
        if HAS_KEY_MASK:
            is_key &= tl.load(key_mask_ptr + batch * key_mask_stride_b + start + in_tile_k, mask=is_key, other=0) != 0
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION, out_dtype=ACC) * log2_scale
        weights = tl.where(is_key[None, :], tl.exp2(scores - log2_lse[:, None]), 0.0)
        d_weights = tl.dot(d_out, tl.trans(v), input_precision=PRECISION, out_dtype=ACC)
        d_scores = weights * (d_weights - delta[:, None])
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
