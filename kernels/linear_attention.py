"""Linear attention over what a table leaves out (SLA, 2509.24006, eq. 5 to 7), or over everything.

    O_i = phi(Q_i) H_i / (phi(Q_i) Z_i),   H_i = sum_j phi(K_j)^T V_j,   Z_i = sum_j colsum phi(K_j)

with j over the *marginal* blocks, those that row i of the table does not read. The sums of blocks and their products
with queries are plain matrix products, for which nothing beats cuBLAS; what lies between them is
:func:`~dit_accel.kernels.marginal_sums.marginal_sums`. Written out once between the three, H is D / block times as
large as K; a fused kernel would spare writing and reading that, and would hold a D x D tile in registers for it.

Departure: the published kernels divide by what is left of Z even where nothing is left. Rows without a marginal block
are 0 here, and pass no gradient on.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import elu, pad, relu

from dit_accel.kernels.block_table import BlockTable
from dit_accel.kernels.marginal_sums import marginal_sums, marginal_sums_truth

FeatureMap = Literal["softmax", "elu", "relu"]
FEATURE_MAPS: tuple[FeatureMap, ...] = ("softmax", "elu", "relu")
LEAST = 1e-6
"""A denominator below this is taken to be this: relu features can be orthogonal to all keys."""
BYTES_AT_ONCE = 1 << 29
"""Of sums of blocks that exist at a time: heads beyond that wait for their turn."""


def features(tokens: Tensor, feature_map: FeatureMap) -> Tensor:
    """phi(tokens), not negative, in their own dtype: softmax over the head's dimensions, elu + 1, or relu."""
    if feature_map == "softmax":
        return tokens.softmax(-1)
    return elu(tokens) + 1 if feature_map == "elu" else relu(tokens)


def linear_attention(
    phi_q: Tensor, phi_k: Tensor, v: Tensor, table: BlockTable | None, *, key_mask: Tensor | None = None
) -> Tensor:
    """Linear attention over the blocks of keys that a table does not name, with gradients.

    Args:
        phi_q: [B, Nq, H, C], not negative.
        phi_k: [B, Nk, H, C], not negative.
        v: [B, Nk, H, D].
        table: What other attention computes; ``None``: linear attention over all keys (the scope ``all``, which the
            authors' later code has).
        key_mask: bool [B or 1, Nk], false for padding.

    Returns:
        [B, Nq, H, D]. Where the table reads everything, 0.

    Raises:
        ValueError: The table is for other lengths.
    """
    if key_mask is not None:
        phi_k = phi_k.masked_fill(~key_mask[:, :, None, None], 0.0)
    if table is None:
        return _over_all(phi_q, phi_k, v)
    table.check(phi_q.shape[1], phi_k.shape[1])
    heads = phi_q.shape[2]
    bytes_each = phi_q.shape[0] * table.num_key_blocks * phi_q.shape[-1] * v.shape[-1] * phi_q.element_size()
    at_once = max(1, min(heads, BYTES_AT_ONCE // max(1, bytes_each)))
    if at_once >= heads:
        return _over_marginal(phi_q, phi_k, v, table)
    parts = []
    for start in range(0, heads, at_once):
        some = slice(start, start + at_once)
        own = table if table.lut.shape[1] == 1 else _of_heads(table, some)
        parts.append(_over_marginal(phi_q[:, :, some], phi_k[:, :, some], v[:, :, some], own))
    return torch.cat(parts, 2)


def linear_attention_truth(phi_q: Tensor, phi_k: Tensor, v: Tensor, table: BlockTable) -> Tensor:
    """The same by its definition, without a difference: sums of what is left out, block by block."""
    sums = _blocks(phi_k, table.block_k).mT @ _blocks(v, table.block_k)
    norms = _blocks(phi_k, table.block_k).sum(-2)
    queries = _blocks(phi_q, table.block_q)
    numerator = queries @ marginal_sums_truth(sums.flatten(-2), table).unflatten(-1, sums.shape[-2:])
    denominator = queries @ marginal_sums_truth(norms, table)[..., None]
    full = (table.counts == table.num_key_blocks)[..., None, None]
    return _tokens((numerator / denominator.clamp_min(LEAST)).masked_fill(full, 0.0), phi_q.shape[1])


def _over_marginal(phi_q: Tensor, phi_k: Tensor, v: Tensor, table: BlockTable) -> Tensor:
    keys, queries = _blocks(phi_k, table.block_k), _blocks(phi_q, table.block_q)
    sums = keys.mT @ _blocks(v, table.block_k)  # [B, H, Mk, C, D]
    scale = 1 / table.num_key_blocks  # of both, so that it cancels out, and fp16 holds them
    left = marginal_sums(sums.flatten(-2), table, scale=scale).unflatten(-1, sums.shape[-2:])
    # The denominator decides on scale, and costs a D-th of the numerator: it is kept in full precision.
    norms = marginal_sums(keys.sum(-2, dtype=_summed(keys)), table, scale=scale)
    denominator = queries.to(norms.dtype) @ norms[..., None]
    full = (table.counts == table.num_key_blocks)[..., None, None]
    out = (queries @ left).to(norms.dtype) / denominator.clamp_min(LEAST)
    return _tokens(out.masked_fill(full, 0.0), phi_q.shape[1]).to(v.dtype)


def _over_all(phi_q: Tensor, phi_k: Tensor, v: Tensor) -> Tensor:
    queries, keys, values = (each.transpose(1, 2) for each in (phi_q, phi_k, v))
    dtype = _summed(queries)
    denominator = queries.to(dtype) @ keys.sum(-2, dtype=dtype)[..., None]
    # The sums over all keys do not fit into fp16, in which the products are. Half of the scale is in keys and half in
    # values, so that neither becomes too small for it, and it is a power of two, so that nothing is rounded for it.
    half = 2.0 ** -math.ceil(math.log2(keys.shape[-2]) / 2)
    sums = (keys * half).mT @ (values * half)
    out: Tensor = (queries @ sums).to(dtype) / (denominator.clamp_min(LEAST) * half**2)
    return out.to(v.dtype).transpose(1, 2)


def _blocks(tokens: Tensor, block: int) -> Tensor:
    """[B, N, H, D] -> [B, H, M, block, D], the last block filled up with zeros, which add nothing."""
    missing = -tokens.shape[1] % block
    whole = pad(tokens, (0, 0, 0, 0, 0, missing)) if missing else tokens
    blocks: Tensor = whole.transpose(1, 2).unflatten(2, (-1, block))
    return blocks


def _tokens(blocks: Tensor, length: int) -> Tensor:
    return blocks.flatten(2, 3)[:, :, :length].transpose(1, 2)


def _of_heads(table: BlockTable, some: slice) -> BlockTable:
    of_keys = None if table.of_keys is None else (table.of_keys[0][:, some], table.of_keys[1][:, some])
    return BlockTable(
        lut=table.lut[:, some],
        counts=table.counts[:, some],
        num_key_blocks=table.num_key_blocks,
        block_q=table.block_q,
        block_k=table.block_k,
        of_keys=of_keys,
    )


def _summed(tokens: Tensor) -> torch.dtype:
    return torch.float64 if tokens.dtype == torch.float64 else torch.float32
