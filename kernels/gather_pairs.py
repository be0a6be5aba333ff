"""Which queries read which block of keys, seen from the keys: the lists that attention over single queries goes by.

Block-sparse tables choose for a block of queries at once. VMoBA (2506.23858) lets every query choose for itself, among
blocks of keys that are thousands of tokens long and need not be neighbours in the sequence. Loops over queries would
read every block again for each; so the loop is turned inside out, as in Flash Sparse Attention (2508.18224): a block
of keys, and the list of those who read it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KeyBlocks:
    """A partition of keys into blocks of any size and any tokens.

    Attributes:
        tokens: int32 [N], the tokens of the first block, of the second one, and so on.
        starts: int32 [C + 1], where each block begins in ``tokens``.
        own: int64 [N], the block of each token.
        sizes: Of the blocks, as Python numbers.
    """

    tokens: Tensor
    starts: Tensor
    own: Tensor
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, own: Tensor) -> "KeyBlocks":
        """The partition in which token n is in block ``own[n]``; waits, so it is made once a run.

        Args:
            own: int64 [N], numbers from 0 on, none left out.

        Raises:
            ValueError: A block has no token.
        """
        sizes = tuple(own.bincount().tolist())
        if not sizes or 0 in sizes:
            raise ValueError("every block of keys needs a token")
        return cls(
            tokens=own.argsort(stable=True).to(torch.int32),
            starts=pad(own.bincount().cumsum(0), (1, 0)).to(torch.int32),
            own=own,
            sizes=sizes,
        )

    def to(self, device: torch.device | str) -> "KeyBlocks":
        """The same on a device."""
        if self.own.device == torch.device(device):
            return self
        tokens, starts, own = (each.to(device) for each in (self.tokens, self.starts, self.own))
        return KeyBlocks(tokens=tokens, starts=starts, own=own, sizes=self.sizes)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairs:
    """All pairs of a query and a block of keys that it reads, block after block; H and B as one dimension.

    Attributes:
        queries: int32 [B * H, P], the query of each pair; what lies behind the last one is a valid number.
        starts: int32 [B * H, C + 1], where the pairs of each block begin.
        slots: int32 [B * H, C, N], where the pair of block and query stands; -1: there is none.
    """

    queries: Tensor
    starts: Tensor
    slots: Tensor

    @classmethod
    def of(cls, chosen: Tensor, capacity: int) -> "Pairs":
        """The lists of a choice.

        Args:
            chosen: bool [B, H, C, N].
            capacity: P, as many pairs as a head has at most; 0: counted, which waits for the device. Pairs beyond it
                are left out.
        """
        *_, blocks, length = chosen.shape
        flat = chosen.reshape(-1, blocks * length)
        places = flat.cumsum(-1, dtype=torch.int32) - 1
        counts = chosen.sum(-1, dtype=torch.int32).view(-1, blocks)
        starts = pad(counts.cumsum(-1, dtype=torch.int32), (1, 0))
        width = max(1, capacity or int(starts[:, -1].max()))
        queries = torch.zeros(len(flat), width + 1, dtype=torch.int32, device=chosen.device)
        numbers = torch.arange(length, dtype=torch.int32, device=chosen.device).repeat(blocks).expand(flat.shape)
        listed = flat & (places < width)
        queries.scatter_(-1, places.masked_fill(~listed, width).to(torch.int64), numbers)
        slots = places.masked_fill(~listed, -1).view(-1, blocks, length)
        return cls(queries=queries[:, :width].contiguous(), starts=starts.clamp(max=width).contiguous(), slots=slots)


def tiles_of(starts: Tensor, tile: int, length: int) -> tuple[Tensor, Tensor]:
    """Cuts ragged blocks into tiles of which none reaches over the end of its block.

    Args:
        starts: int32 [..., C + 1], where blocks begin.
        tile: Rows of a tile.
        length: At most the end of the last block.

    Returns:
        int32 [..., T]: the block of each tile, C for those that are too many; and int32 [..., T]: its first row. T is
        what no choice exceeds, so that nothing has to be read back.
    """
    blocks = starts.shape[-1] - 1
    ends = (starts.diff(dim=-1) + (tile - 1)).div(tile, rounding_mode="floor").cumsum(-1)
    numbers = torch.arange(-(-length // tile) + blocks, device=starts.device).expand(*starts.shape[:-1], -1)
    block = torch.searchsorted(ends.to(torch.int64), numbers.contiguous(), right=True)
    before = pad(ends, (1, 0)).gather(-1, block)
    first = starts.gather(-1, block) + (numbers - before) * tile
    return block.to(torch.int32).contiguous(), first.to(torch.int32).contiguous()
