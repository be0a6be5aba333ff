"""The gradients of keys and values, in Triton: over the keys, with the table seen from the keys.

Formulas are those of :mod:`dit_accel.kernels.block_sparse_backward`.
"""

import triton
import triton.language as tl

from dit_accel.kernels.tiles import LOG2_E, log2_of, pair_of, rows_at


@triton.jit(do_not_specialize=["num_queries", "num_keys"])
def d_key_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    d_out_ptr,
    lse_ptr,
    delta_ptr,
    d_k_ptr,
    d_v_ptr,
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
    d_k_stride_b,
    d_k_stride_n,
    d_k_stride_h,
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
    """dK and dV of one tile of keys. Grid: (tiles of keys, B * H). ``lut`` is the table seen from the keys; dK and dV
    [B, Nk, H, D] share their strides, D contiguous."""
    tile = tl.program_id(0)
    pair, batch, head = pair_of(num_heads)
    row = (tile * TILE_K // BLOCK_K).to(tl.int64)
    first = (tile * TILE_K).to(tl.int64)

    in_tile_q = tl.arange(0, TILE_Q)
    in_tile_k = tl.arange(0, TILE_K)
    dims = tl.arange(0, D)
    is_key = first + in_tile_k < num_keys

    k_base = k_ptr + batch * k_stride_b + head * k_stride_h + first * k_stride_n
    v_base = v_ptr + batch * v_stride_b + head * v_stride_h + first * v_stride_n
    k = rows_at(k_base, in_tile_k, k_stride_n, dims, k_stride_d, is_key, UPCAST)
    v = rows_at(v_base, in_tile_k, v_stride_n, dims, v_stride_d, is_key, UPCAST)
    is_read = is_key
    if HAS_KEY_MASK:
        is_read &= tl.load(key_mask_ptr + batch * key_mask_stride_b + first + in_tile_k, mask=is_key, other=0) != 0

    q_base = q_ptr + batch * q_stride_b + head * q_stride_h
    d_out_base = d_out_ptr + batch * d_out_stride_b + head * d_out_stride_h
    per_query = pair * num_queries
    lut_row = lut_ptr + batch * lut_stride_b + head * lut_stride_h + row * lut_stride_m
    count = tl.load(counts_ptr + batch * counts_stride_b + head * counts_stride_h + row)
    log2_scale = scale * LOG2_E
    d_k = tl.zeros([TILE_K, D], ACC)
    d_v = tl.zeros([TILE_K, D], ACC)
    TILES: tl.constexpr = BLOCK_Q // TILE_Q
    for turn in range(count * TILES):
        block = tl.load(lut_row + turn // TILES).to(tl.int64)
        start = block * BLOCK_Q + (turn % TILES) * TILE_Q
        is_query = start + in_tile_q < num_queries
        q = rows_at(q_base + start * q_stride_n, in_tile_q, q_stride_n, dims, q_stride_d, is_query, UPCAST)
        from_start = d_out_base + start * d_out_stride_n
        d_out = rows_at(from_start, in_tile_q, d_out_stride_n, dims, d_out_stride_d, is_query, UPCAST)
        log2_lse = log2_of(tl.load(lse_ptr + per_query + start + in_tile_q, mask=is_query, other=float("-inf")))
        delta = tl.load(delta_ptr + per_query + start + in_tile_q, mask=is_query, other=0.0)
        scores = tl.dot(k, tl.trans(q), input_precision=PRECISION, out_dtype=ACC) * log2_scale
        weights = tl.where(is_read[:, None], tl.exp2(scores - log2_lse[None, :]), 0.0)
        # Used up before the next product is made: both at once do not fit into the registers.
        d_v += tl.dot(weights.to(d_out.dtype), d_out, input_precision=PRECISION, out_dtype=ACC)
        d_weights = tl.dot(v, tl.trans(d_out), input_precision=PRECISION, out_dtype=ACC)
        d_scores = weights * (d_weights - delta[None, :])
        d_k += tl.dot(d_scores.to(q.dtype), q, input_precision=PRECISION, out_dtype=ACC)

    place = (
        batch * d_k_stride_b
        + head * d_k_stride_h
        + first * d_k_stride_n
        + in_tile_k[:, None] * d_k_stride_n
        + dims[None, :]
    )
    tl.store(d_k_ptr + place, (d_k * scale).to(d_k_ptr.dtype.element_ty), mask=is_key[:, None])
    tl.store(d_v_ptr + place, d_v.to(d_v_ptr.dtype.element_ty), mask=is_key[:, None])
