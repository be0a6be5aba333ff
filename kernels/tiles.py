"""What the attention kernels do with one tile, in Triton: read its rows, take a step of a softmax, differentiate it.

Triton inlines them. Scores and maxima are in units of log2, since a GPU has 2**x and not e**x.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def pair_of(num_heads):
    """The pair of a sample and a head that this program works on, and the sample and the head, int64; axis 1."""
    pair = tl.program_id(1).to(tl.int64)
    return pair, pair // num_heads, pair % num_heads


@triton.jit
def rows_at(base, numbers, stride_n, dims, stride_d, is_row, UPCAST: tl.constexpr):
    """Rows of a tensor [N, D] by their numbers, zeros where there is none; int64 numbers, or a base near by."""
    rows = tl.load(base + numbers[:, None] * stride_n + dims[None, :] * stride_d, mask=is_row[:, None], other=0.0)
    if UPCAST:
        rows = rows.to(tl.float32)
    return rows


@triton.jit
def softmax_step(scores, highest, total):
    """A tile of scores [Q, K] joins a running softmax with maxima and totals [Q].

    Returns the weights [Q, K] before division, what has been summed up so far must be multiplied by [Q], and the new
    maxima and totals.
    """
    new_highest = tl.maximum(highest, tl.max(scores, 1))
    # Where nothing has been selected yet the maximum is -inf, and -inf - -inf is NaN.
    reference = tl.where(new_highest == float("-inf"), 0.0, new_highest)
    weights = tl.exp2(scores - reference[:, None])
    shrink = tl.exp2(highest - reference)
    return weights, shrink, new_highest, total * shrink + tl.sum(weights, 1)


@triton.jit
def softmax_end(acc, highest, total):
    """Output [Q, D] and natural log-sum-exp [Q] of a running softmax; 0 and -inf of a row that nothing joined."""
    is_empty = total == 0.0
    divisor = tl.where(is_empty, 1.0, total)
    lse = tl.where(is_empty, float("-inf"), (highest + tl.log2(divisor)) * LN_2)
    return acc / divisor[:, None], lse


@triton.jit
def log2_of(lse):
    """A natural log-sum-exp in log2, for weights exp2(s - lse): of a row without a key inf, so that they are 0."""
    return tl.where(lse == float("-inf"), float("inf"), lse * LOG2_E)


@triton.jit
def gradient_of_queries(
    q, k, v, d_out, log2_lse, delta, is_key, log2_scale, ACC: tl.constexpr, PRECISION: tl.constexpr
):
    """ds [Q, K] of a tile: P * (d_out V^T - delta), P = exp2(s - lse), 0 where there is no key."""
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION, out_dtype=ACC) * log2_scale
    weights = tl.where(is_key[None, :], tl.exp2(scores - log2_lse[:, None]), 0.0)
    d_weights = tl.dot(d_out, tl.trans(v), input_precision=PRECISION, out_dtype=ACC)
    return weights * (d_weights - delta[:, None])
