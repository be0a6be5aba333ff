"""Which key blocks each block of queries reads: a look-up table, and the same seen from the keys.

A table is two integer tensors. ``lut[b, h, i, :counts[b, h, i]]`` are the numbers of the key blocks that query block
``i`` reads, ascending; what lies behind them is a valid number that nobody reads. ``B`` and ``H`` may be 1: then every
sample or head reads the same blocks. All of it is built on the tensors' own device; no function here waits for one,
except those that say so.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

BLOCK_SIZES = (16, 32, 64, 128)
"""Rows in a block that the kernels are written for; below 64 is for tests and short sequences."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BlockTable:
    """The blocks of attention scores that are computed.

    Attributes:
        lut: int32 [B or 1, H or 1, Mq, K], key blocks of each query block, ascending.
        counts: int32 [B or 1, H or 1, Mq], how many of them.
        num_key_blocks: Mk, how many blocks of keys there are to choose from.
        block_q: Queries in a block.
        block_k: Keys in a block.
        of_keys: The same seen from the keys, which the backward pass reads: int32 [B or 1, H or 1, Mk, Kt], the query
            blocks of each key block, and int32 [B or 1, H or 1, Mk]. ``None``: made when it is needed.
    """

    lut: Tensor
    counts: Tensor
    num_key_blocks: int
    block_q: int
    block_k: int
    of_keys: tuple[Tensor, Tensor] | None = None

    @classmethod
    def from_mask(
        cls, mask: Tensor, *, block_q: int = 64, block_k: int = 64, narrow: bool = True, backward: bool = True
    ) -> "BlockTable":
        """The table of a mask.

        Args:
            mask: bool [B or 1, H or 1, Mq, Mk]: which blocks are computed.
            block_q: Queries in a block.
            block_k: Keys in a block.
            narrow: Make the tables as narrow as the fullest row, which waits for the device once; otherwise they are
                as wide as there are blocks.
            backward: Make the table seen from the keys too.

        Raises:
            ValueError: The mask is not boolean or has not four dimensions, or a block size has no kernel.
        """
        if mask.dtype is not torch.bool or mask.ndim != 4:
            raise ValueError(f"expected a bool mask [B, H, Mq, Mk], got {mask.dtype} {list(mask.shape)}")
        _check_block_sizes(block_q, block_k)
        lut, counts = table_of(mask, narrow=narrow)
        return cls(
            lut=lut,
            counts=counts,
            num_key_blocks=mask.shape[-1],
            block_q=block_q,
            block_k=block_k,
            of_keys=table_of(mask.mT, narrow=narrow) if backward else None,
        )

    @property
    def mask(self) -> Tensor:
        """bool [B or 1, H or 1, Mq, Mk]."""
        return mask_of(self.lut, self.counts, self.num_key_blocks)

    def density(self, num_queries: int, num_keys: int) -> float:
        """Share of all scores of queries with keys that is computed, ragged ends counted as they are; waits.

        Args:
            num_queries: Queries, which the table's rows must cover.
            num_keys: Keys.
        """
        rows = block_lengths(num_queries, self.block_q).to(self.lut.device, torch.float64)
        columns = block_lengths(num_keys, self.block_k).to(self.lut.device, torch.float64)
        computed = torch.einsum("bhij,i,j->bh", self.mask.to(torch.float64), rows, columns)
        return float(computed.mean()) / (num_queries * num_keys)

    def check(self, num_queries: int, num_keys: int) -> None:
        """Make sure that the table is made for these lengths.

        Raises:
            ValueError: It is not.
        """
        here = (self.counts.shape[-1], self.num_key_blocks)
        wanted = (num_blocks(num_queries, self.block_q), num_blocks(num_keys, self.block_k))
        if here != wanted:
            raise ValueError(
                f"the table has {here[0]} x {here[1]} blocks of {self.block_q} x {self.block_k}, but {num_queries} "
                f"queries and {num_keys} keys are {wanted[0]} x {wanted[1]}: build it for these lengths"
            )

    def to(self, device: torch.device | str) -> "BlockTable":
        """The same table on a device; itself if it lies there."""
        if self.lut.device == torch.device(device):
            return self
        of_keys = None if self.of_keys is None else (self.of_keys[0].to(device), self.of_keys[1].to(device))
        return replace(self, lut=self.lut.to(device), counts=self.counts.to(device), of_keys=of_keys)


def num_blocks(length: int, block: int) -> int:
    """Blocks that cover a sequence, the last one possibly ragged."""
    return -(-length // block)


def block_lengths(length: int, block: int) -> Tensor:
    """int64 [M]: tokens in each block of a sequence."""
    starts = torch.arange(0, length, block)
    return (length - starts).clamp(max=block)


def table_of(mask: Tensor, *, narrow: bool = False) -> tuple[Tensor, Tensor]:
    """Positions of what is true along the last dimension, and how many.

    Args:
        mask: bool [..., M].
        narrow: As wide as the fullest row, at least 1; waits for the device.

    Returns:
        int32 [..., K] ascending, zeros behind them, and int32 [...].
    """
    size = mask.shape[-1]
    counts = mask.sum(-1, dtype=torch.int32)
    width = max(1, int(counts.max())) if narrow and counts.numel() else size
    # A running count gives every entry its place, which a sort would find too, at many times the cost.
    places = (mask.cumsum(-1) - 1).masked_fill(~mask, size)
    numbers = torch.arange(size, dtype=torch.int32, device=mask.device).expand(mask.shape)
    lut = torch.zeros(*mask.shape[:-1], size + 1, dtype=torch.int32, device=mask.device)
    return lut.scatter_(-1, places, numbers)[..., :width].contiguous(), counts


def mask_of(lut: Tensor, counts: Tensor, size: int) -> Tensor:
    """The inverse of :func:`table_of`: bool [..., size]."""
    used = torch.arange(lut.shape[-1], device=lut.device) < counts[..., None]
    places = lut.to(torch.int64).masked_fill(~used, size)
    mask = torch.zeros(*lut.shape[:-1], size + 1, dtype=torch.bool, device=lut.device)
    return mask.scatter_(-1, places, True)[..., :size]


def transposed(lut: Tensor, counts: Tensor, num_key_blocks: int) -> tuple[Tensor, Tensor]:
    """The table seen from the keys, at full width: nothing is read back from the device.

    Returns:
        int32 [B, H, Mk, Mq] and int32 [B, H, Mk].
    """
    return table_of(mask_of(lut, counts, num_key_blocks).mT)


def with_dense_blocks(mask: Tensor, rows: Iterable[int], columns: Iterable[int]) -> Tensor:
    """A copy of a block mask in which some rows and columns are computed whole, as those of text tokens are.

    Args:
        mask: bool [..., Mq, Mk].
        rows: Query blocks.
        columns: Key blocks.
    """
    mask = mask.clone()
    mask[..., list(rows), :] = True
    mask[..., :, list(columns)] = True
    return mask


def blocks_of_span(start: int, stop: int, block: int) -> range:
    """The blocks that have a token of ``start <= n < stop`` in them."""
    return range(start // block, num_blocks(stop, block)) if stop > start else range(0)


def _check_block_sizes(block_q: int, block_k: int) -> None:
    for name, size in (("block_q", block_q), ("block_k", block_k)):
        if size not in BLOCK_SIZES:
            raise ValueError(f"'{name}' must be one of {', '.join(map(str, BLOCK_SIZES))}, got {size}")
