"""FlashAttention over a look-up table of key blocks, forward, in Triton.

Follows FlashAttention-2 (Dao 2023, algorithm 1) with the loop over keys replaced by one over a row of the table, as
the kernels of SLA, FastVideo and PAROAttention do. A program computes one tile of queries; a block of the table may be
several tiles of queries high and of keys wide. Scores stay raw until they are fp32: a key scaled in bf16 beforehand
ruins the gradients of large inputs.
"""

import triton
import triton.language as tl

from dit_accel.kernels.tiles import LOG2_E, pair_of, rows_at, softmax_end, softmax_step


@triton.jit(do_not_specialize=["num_queries", "num_keys"])
def forward_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    lse_ptr,
    lut_ptr,
    counts_ptr,
    key_mask_ptr,
    order_ptr,
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
    out_stride_b,
    out_stride_n,
    out_stride_h,
    lut_stride_b,
    lut_stride_h,
    lut_stride_m,
    counts_stride_b,
    counts_stride_h,
    key_mask_stride_b,
    order_stride_h,
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
    HAS_ORDER: tl.constexpr,
    ACC: tl.constexpr,
    UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile of queries of one head. Grid: (tiles of queries, B * H); the queries of a head run next to each other,
    so that its keys and values stay in L2.

    Inputs [B, N, H, D] by their strides, output [B, Nq, H, D] with D contiguous, ``lse`` fp32 [B, H, Nq] contiguous.
    With an order, int32 [H or 1, N], blocks are of tokens in that order: rows are read and written where they lie, and
    nothing is moved for it.
    """
    tile = tl.program_id(0)
    pair, batch, head = pair_of(num_heads)
    row = (tile * TILE_Q // BLOCK_Q).to(tl.int64)
    first = (tile * TILE_Q).to(tl.int64)

    in_tile_q = tl.arange(0, TILE_Q)
    in_tile_k = tl.arange(0, TILE_K)
    dims = tl.arange(0, D)
    is_query = first + in_tile_q < num_queries
    query = first + in_tile_q
    if HAS_ORDER:
        query = tl.load(order_ptr + head * order_stride_h + query, mask=is_query, other=0).to(tl.int64)

    q = rows_at(q_ptr + batch * q_stride_b + head * q_stride_h, query, q_stride_n, dims, q_stride_d, is_query, UPCAST)
    k_base = k_ptr + batch * k_stride_b + head * k_stride_h
    v_base = v_ptr + batch * v_stride_b + head * v_stride_h
    lut_row = lut_ptr + batch * lut_stride_b + head * lut_stride_h + row * lut_stride_m
    count = tl.load(counts_ptr + batch * counts_stride_b + head * counts_stride_h + row)

    log2_scale = scale * LOG2_E
    highest = tl.full([TILE_Q], float("-inf"), ACC)
    total = tl.zeros([TILE_Q], ACC)
    acc = tl.zeros([TILE_Q, D], ACC)
    TILES: tl.constexpr = BLOCK_K // TILE_K
    for turn in range(count * TILES):
        block = tl.load(lut_row + turn // TILES).to(tl.int64)
        start = block * BLOCK_K + (turn % TILES) * TILE_K
        is_key = start + in_tile_k < num_keys
        key = start + in_tile_k
        if HAS_ORDER:
            key = tl.load(order_ptr + head * order_stride_h + key, mask=is_key, other=0).to(tl.int64)
        k = rows_at(k_base, key, k_stride_n, dims, k_stride_d, is_key, UPCAST)
        v = rows_at(v_base, key, v_stride_n, dims, v_stride_d, is_key, UPCAST)
        if HAS_KEY_MASK:
            is_key &= tl.load(key_mask_ptr + batch * key_mask_stride_b + key, mask=is_key, other=0) != 0
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION, out_dtype=ACC) * log2_scale
        scores = tl.where(is_key[None, :], scores, float("-inf"))
        weights, shrink, highest, total = softmax_step(scores, highest, total)
        acc = acc * shrink[:, None]
        acc += tl.dot(weights.to(v.dtype), v, input_precision=PRECISION, out_dtype=ACC)

    out, lse = softmax_end(acc, highest, total)
    tl.store(
        out_ptr + batch * out_stride_b + head * out_stride_h + query[:, None] * out_stride_n + dims[None, :],
        out.to(out_ptr.dtype.element_ty),
        mask=is_query[:, None],
    )
    tl.store(lse_ptr + pair * num_queries + query, lse, mask=is_query)
