"""A block of keys for all queries that chose it, in Triton, and what they got from their blocks, merged.

Parts lie in a buffer, pair after pair, so that nothing is added up atomically. Rows of q, k and v are found by their
numbers; each is D numbers in a row, so that nothing is copied into another order beforehand.
"""

import triton
import triton.language as tl

from dit_accel.kernels.tiles import LOG2_E, pair_of, rows_at, softmax_end, softmax_step


@triton.jit
def queries_of_tile(
    tile_block_ptr,
    tile_first_ptr,
    pair_starts_ptr,
    queries_ptr,
    pair,
    num_tiles,
    num_blocks,
    num_pairs,
    TILE_Q: tl.constexpr,
):
    """This program's block, whether there is one, and of its queries [TILE_Q]: places among pairs, numbers, and which
    there are."""
    block = tl.load(tile_block_ptr + pair * num_tiles + tl.program_id(0))
    # One tile too many has the block behind the last one: nobody's queries, and no keys.
    is_tile = block < num_blocks
    first = tl.load(tile_first_ptr + pair * num_tiles + tl.program_id(0))
    last = tl.load(pair_starts_ptr + pair * (num_blocks + 1) + block + 1, mask=is_tile, other=0)
    slots = first + tl.arange(0, TILE_Q)
    is_query = slots < last
    places = pair * num_pairs + slots
    return block, is_tile, places, tl.load(queries_ptr + places, mask=is_query, other=0).to(tl.int64), is_query


@triton.jit(do_not_specialize=["num_blocks", "num_pairs", "num_tiles"])
def gather_forward_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    part_ptr,
    part_lse_ptr,
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
    num_heads,
    num_blocks,
    num_pairs,
    num_tiles,
    scale,
    D: tl.constexpr,
    TILE_Q: tl.constexpr,
    TILE_K: tl.constexpr,
    ACC: tl.constexpr,
    UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile of the queries of one block. Grid: (tiles, B * H); the tiles of a block are neighbours: its keys stay
    in L2. Parts [B * H, P, D] and their log-sum-exps [B * H, P] contiguous."""
    pair, batch, head = pair_of(num_heads)
    block, is_tile, places, query, is_query = queries_of_tile(
        tile_block_ptr, tile_first_ptr, pair_starts_ptr, queries_ptr, pair, num_tiles, num_blocks, num_pairs, TILE_Q
    )
    dims = tl.arange(0, D)
    q = rows_at(q_ptr + batch * q_stride_b + head * q_stride_h, query, q_stride_n, dims, q_stride_d, is_query, UPCAST)
    k_base = k_ptr + batch * k_stride_b + head * k_stride_h
    v_base = v_ptr + batch * v_stride_b + head * v_stride_h
    first_key = tl.load(key_starts_ptr + block, mask=is_tile, other=0)
    last_key = tl.load(key_starts_ptr + block + 1, mask=is_tile, other=0)
    log2_scale = scale * LOG2_E
    highest = tl.full([TILE_Q], float("-inf"), ACC)
    total = tl.zeros([TILE_Q], ACC)
    acc = tl.zeros([TILE_Q, D], ACC)
    for start in range(first_key, last_key, TILE_K):
        place = start + tl.arange(0, TILE_K)
        is_key = place < last_key
        key = tl.load(tokens_ptr + place, mask=is_key, other=0).to(tl.int64)
        k = rows_at(k_base, key, k_stride_n, dims, k_stride_d, is_key, UPCAST)
        v = rows_at(v_base, key, v_stride_n, dims, v_stride_d, is_key, UPCAST)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION, out_dtype=ACC) * log2_scale
        scores = tl.where(is_key[None, :], scores, float("-inf"))
        weights, shrink, highest, total = softmax_step(scores, highest, total)
        acc = acc * shrink[:, None]
        acc += tl.dot(weights.to(v.dtype), v, input_precision=PRECISION, out_dtype=ACC)
    out, lse = softmax_end(acc, highest, total)
    tl.store(part_ptr + places[:, None] * D + dims[None, :], out.to(part_ptr.dtype.element_ty), mask=is_query[:, None])
    tl.store(part_lse_ptr + places, lse, mask=is_query)


@triton.jit(do_not_specialize=["num_blocks", "num_pairs", "num_queries"])
def merge_kernel(
    part_ptr,
    part_lse_ptr,
    slots_ptr,
    out_ptr,
    lse_ptr,
    out_stride_b,
    out_stride_n,
    out_stride_h,
    num_heads,
    num_blocks,
    num_pairs,
    num_queries,
    factor,
    D: tl.constexpr,
    TILE: tl.constexpr,
    ACC: tl.constexpr,
    WEIGHTED: tl.constexpr,
):
    """The parts of one tile of queries: merged by their log-sum-exps, or, not ``WEIGHTED``, added up and multiplied.

    Grid: (tiles of queries, B * H). Output [B, Nq, H, D] with D contiguous, log-sum-exp [B, H, Nq] contiguous.
    """
    pair, batch, head = pair_of(num_heads)
    query = (tl.program_id(0) * TILE + tl.arange(0, TILE)).to(tl.int64)
    is_query = query < num_queries
    dims = tl.arange(0, D)
    highest = tl.full([TILE], float("-inf"), ACC)
    total = tl.zeros([TILE], ACC)
    acc = tl.zeros([TILE, D], ACC)
    for block in range(num_blocks):
        slot = tl.load(slots_ptr + (pair * num_blocks + block) * num_queries + query, mask=is_query, other=-1)
        has = slot >= 0
        place = pair * num_pairs + slot.to(tl.int64)
        part = tl.load(part_ptr + place[:, None] * D + dims[None, :], mask=has[:, None], other=0.0).to(ACC)
        if WEIGHTED:
            lse = tl.load(part_lse_ptr + place, mask=has, other=float("-inf")) * LOG2_E
            new_highest = tl.maximum(highest, lse)
            reference = tl.where(new_highest == float("-inf"), 0.0, new_highest)
            weight = tl.exp2(lse - reference)
            shrink = tl.exp2(highest - reference)
            total = total * shrink + weight
            acc = acc * shrink[:, None] + part * weight[:, None]
            highest = new_highest
        else:
            acc += part
    if WEIGHTED:
        acc, lse = softmax_end(acc, highest, total)
        tl.store(lse_ptr + pair * num_queries + query, lse, mask=is_query)
    else:
        acc = acc * factor
    place = batch * out_stride_b + head * out_stride_h + query[:, None] * out_stride_n + dims[None, :]
    tl.store(out_ptr + place, acc.to(out_ptr.dtype.element_ty), mask=is_query[:, None])
