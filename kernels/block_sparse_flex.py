"""The same attention through PyTorch's FlexAttention: a second opinion on the kernels, and a rival in benchmarks.

The ``BlockMask`` is made from the table itself. From a ``mask_mod`` it would be made through every single score, which
at 100,000 tokens takes more memory than there is, and more time than the attention.
"""

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from dit_accel.kernels.block_table import BlockTable, table_of


def block_mask(table: BlockTable, batch: int, heads: int, num_queries: int, num_keys: int) -> BlockMask:
    """The table as FlexAttention wants it: all of its blocks are computed whole.

    Args:
        table: For these lengths.
        batch: Samples.
        heads: Heads.
        num_queries: Queries; a ragged last block is cut by FlexAttention itself.
        num_keys: Keys.
    """
    table.check(num_queries, num_keys)
    blocks = table.mask.expand(batch, heads, -1, -1)
    # FlexAttention wants one column for every block of keys, used or not.
    lut, counts = table_of(table.mask)
    none = torch.zeros_like(counts)
    shape = (batch, heads)

    def is_kept(sample: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        # Compiled FlexAttention asks this of no block that is computed whole; uncompiled it asks nothing else.
        return blocks[sample, head, query // table.block_q, key // table.block_k]

    return BlockMask.from_kv_blocks(
        none.expand(*shape, -1).contiguous(),
        torch.zeros_like(lut).expand(*shape, -1, -1).contiguous(),
        counts.expand(*shape, -1).contiguous(),
        lut.expand(*shape, -1, -1).contiguous(),
        BLOCK_SIZE=(table.block_q, table.block_k),
        mask_mod=is_kept,
        seq_lengths=(num_queries, num_keys),
    )


def flex_block_sparse(q: Tensor, k: Tensor, v: Tensor, table: BlockTable, *, scale: float | None = None) -> Tensor:
    """Output [B, Nq, H, D] of q, k and v [B, N, H, D]. Uncompiled, FlexAttention computes every score."""
    mask = block_mask(table, q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    out: Tensor = flex_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), block_mask=mask, scale=scale)
    return out.transpose(1, 2)
