"""FlashAttention over a table of key blocks with products in INT8 or FP8, in Triton.

As :mod:`dit_accel.kernels.block_sparse_forward`, whose comments hold here. Weights are in [0, 1] once the maximum is
taken off, so a fixed unit of 1 / 127 fits them all. Every product of a tile begins at zero and is added up outside of
the tensor core in fp32, which accumulates FP8 in fewer bits than that.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from dit_accel.kernels.block_sparse_launch import INTERPRETED, for_all, launch_forward, start, stored
from dit_accel.kernels.block_table import num_blocks
from dit_accel.kernels.low_bit import FLOAT8, LARGEST_FLOAT8, LowBits
from dit_accel.kernels.tiles import LOG2_E, pair_of, rows_at, softmax_end, softmax_step

_LARGEST_FLOAT8 = tl.constexpr(LARGEST_FLOAT8)
PLAIN, INT8, FP8 = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit(do_not_specialize=["num_queries", "num_keys"])
def low_bit_forward_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    q_unit_ptr,
    k_unit_ptr,
    v_unit_ptr,
    out_ptr,
    lse_ptr,
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
    out_stride_b,
    out_stride_n,
    out_stride_h,
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
    PV: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """One tile of queries of one head. Grid: (tiles of queries, B * H). q and k int8 [B, N, H, D] by strides; the
    units of q, k, v fp32 [B, H, Nq], [B, H, Mk] and [B, H, Mk, D] contiguous."""
    tile = tl.program_id(0)
    pair, batch, head = pair_of(num_heads)
    row = (tile * TILE_Q // BLOCK_Q).to(tl.int64)
    first = (tile * TILE_Q).to(tl.int64)
    in_tile_q = tl.arange(0, TILE_Q)
    in_tile_k = tl.arange(0, TILE_K)
    dims = tl.arange(0, D)
    is_query = first + in_tile_q < num_queries
    num_key_blocks = tl.cdiv(num_keys, BLOCK_K)
    q_base = q_ptr + batch * q_stride_b + head * q_stride_h + first * q_stride_n
    q = rows_at(q_base, in_tile_q, q_stride_n, dims, q_stride_d, is_query, False)
    q_unit = tl.load(q_unit_ptr + pair * num_queries + first + in_tile_q, mask=is_query, other=0.0)
    q_unit = q_unit * (scale * LOG2_E)
    k_base = k_ptr + batch * k_stride_b + head * k_stride_h
    v_base = v_ptr + batch * v_stride_b + head * v_stride_h
    lut_row = lut_ptr + batch * lut_stride_b + head * lut_stride_h + row * lut_stride_m
    count = tl.load(counts_ptr + batch * counts_stride_b + head * counts_stride_h + row)
    highest = tl.full([TILE_Q], float("-inf"), tl.float32)
    total = tl.zeros([TILE_Q], tl.float32)
    acc = tl.zeros([TILE_Q, D], tl.float32)
    TILES: tl.constexpr = BLOCK_K // TILE_K
    for turn in range(count * TILES):
        block = tl.load(lut_row + turn // TILES).to(tl.int64)
        key = block * BLOCK_K + (turn % TILES) * TILE_K + in_tile_k
        is_key = key < num_keys
        k = rows_at(k_base, key, k_stride_n, dims, k_stride_d, is_key, False)
        v = rows_at(v_base, key, v_stride_n, dims, v_stride_d, is_key, False)
        k_unit = tl.load(k_unit_ptr + pair * num_key_blocks + block)
        if HAS_KEY_MASK:
            is_key &= tl.load(key_mask_ptr + batch * key_mask_stride_b + key, mask=is_key, other=0) != 0
        scores = tl.dot(q, tl.trans(k), out_dtype=tl.int32).to(tl.float32) * (q_unit[:, None] * k_unit)
        scores = tl.where(is_key[None, :], scores, float("-inf"))
        weights, shrink, highest, total = softmax_step(scores, highest, total)
        if PV == INT8:
            v_unit = tl.load(v_unit_ptr + (pair * num_key_blocks + block) * D + dims)
            few = (weights * 127.0 + 0.5).to(tl.int8)
            part = tl.dot(few, v, out_dtype=tl.int32).to(tl.float32) * (v_unit * (1.0 / 127.0))[None, :]
        elif PV == FP8:
            v_unit = tl.load(v_unit_ptr + (pair * num_key_blocks + block) * D + dims)
            few = (weights * _LARGEST_FLOAT8).to(v.dtype)
            part = tl.dot(few, v, out_dtype=tl.float32) * (v_unit * (1.0 / _LARGEST_FLOAT8))[None, :]
        else:
            if UPCAST:
                v = v.to(tl.float32)
            part = tl.dot(weights.to(v.dtype), v, input_precision="ieee", out_dtype=tl.float32)
        acc = acc * shrink[:, None] + part
    out, lse = softmax_end(acc, highest, total)
    out_base = out_ptr + batch * out_stride_b + head * out_stride_h + first * out_stride_n
    tl.store(
        out_base + in_tile_q[:, None] * out_stride_n + dims[None, :],
        out.to(out_ptr.dtype.element_ty),
        mask=is_query[:, None],
    )
    tl.store(lse_ptr + pair * num_queries + first + in_tile_q, lse, mask=is_query)


def run(
    bits: LowBits,
    lut: Tensor,
    counts: Tensor,
    key_mask: Tensor | None,
    scale: float,
    block_q: int,
    block_k: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Output [B, Nq, H, D] in ``dtype``, and the log-sum-exp of the smoothed scores, fp32 [B, H, Nq]."""
    batch, num_queries, heads, head_dim = bits.q.shape
    out = torch.empty(bits.q.shape, dtype=stored(dtype), device=bits.q.device)
    lse = torch.empty(batch, heads, num_queries, dtype=torch.float32, device=bits.q.device)
    lut, counts = for_all(lut, counts, batch, heads)
    key_mask = None if key_mask is None else key_mask.contiguous()
    launch = launch_forward(block_q, block_k, head_dim)
    start(
        low_bit_forward_kernel,
        lambda: (num_blocks(num_queries, launch.tile_q), batch * heads),
        launch,
        (
            *(bits.q, bits.k, bits.v, bits.q_unit, bits.k_unit, bits.v_unit, out, lse, lut, counts, key_mask),
            *(*bits.q.stride(), *bits.k.stride(), *bits.v.stride(), *out.stride()[:3]),
            *(*lut.stride()[:3], *counts.stride()[:2]),
            0 if key_mask is None or key_mask.shape[0] == 1 else key_mask.stride(0),
            *(heads, num_queries, bits.k.shape[1], scale),
        ),
        {
            "D": head_dim,
            "TILE_Q": launch.tile_q,
            "TILE_K": launch.tile_k,
            "BLOCK_Q": block_q,
            "BLOCK_K": block_k,
            "HAS_KEY_MASK": key_mask is not None,
            "PV": {torch.int8: INT8, FLOAT8: FP8}.get(bits.v.dtype, PLAIN),
            "UPCAST": INTERPRETED and bits.v.dtype == torch.bfloat16,
        },
    )
    return out.to(dtype), lse
