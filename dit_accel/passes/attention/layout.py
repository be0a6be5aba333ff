"""Where the tokens of an attention sequence sit, and the orders in which they can be dealt out to blocks."""

import itertools
from dataclasses import dataclass
from functools import cached_property

import torch

from dit_accel.families.tokens import TokenGrid
from dit_accel.kernels.block_table import blocks_of_span, num_blocks, with_dense_blocks

ORDERS: tuple[tuple[int, int, int], ...] = tuple(itertools.permutations(range(3)))  # type: ignore[arg-type]
"""The six orders of frames (0), rows (1) and columns (2), slowest axis first; the first one is the model's own."""
ORDER_NAMES = tuple("".join("FHW"[axis] for axis in order) for order in ORDERS)


@dataclass(frozen=True)
class TokenLayout:
    """The sequence that self-attention sees: the tokens of a video in raster order, and perhaps text in front or
    behind.

    Text keeps its place in every order, and its queries and keys are always computed: also those of the blocks that
    hold the last tokens of it and the first of the video. A block is thus never padded, and nothing is copied.

    Args:
        size: Frames, rows and columns.
        text: First and one past the last position of text; ``None``: the sequence has none.
    """

    size: tuple[int, int, int]
    text: tuple[int, int] | None = None

    @classmethod
    def of(cls, grid: TokenGrid) -> "TokenLayout | None":
        """The layout of a live call; ``None`` where there are reference pictures, or text between the tokens."""
        text = grid.text if grid.text is not None and grid.text[1] > grid.text[0] else None
        if grid.reference or (text is not None and text[0] not in (0, grid.num_tokens)):
            return None
        return cls(grid.size, text)

    @property
    def num_tokens(self) -> int:
        """Tokens of the video."""
        frames, rows, columns = self.size
        return frames * rows * columns

    @property
    def length(self) -> int:
        """Tokens of the sequence."""
        return self.num_tokens + (self.text[1] - self.text[0] if self.text else 0)

    @cached_property
    def permutations(self) -> torch.Tensor:
        """int64 [6, N]: for each of :data:`ORDERS` the tokens of the sequence in that order."""
        first = self.text[1] if self.text is not None and self.text[0] == 0 else 0
        numbers = torch.arange(self.num_tokens).view(self.size)
        whole = torch.arange(self.length).repeat(len(ORDERS), 1)
        for place, order in enumerate(ORDERS):
            whole[place, first : first + self.num_tokens] = first + numbers.permute(order).flatten()
        return whole

    @cached_property
    def inverses(self) -> torch.Tensor:
        """int64 [6, N]: where each token of the sequence stands in each order."""
        return self.permutations.argsort(-1)

    def num_blocks(self, block: int) -> int:
        """Blocks of the sequence."""
        return num_blocks(self.length, block)

    def with_text(self, mask: torch.Tensor, block: int) -> torch.Tensor:
        """A block mask [..., M, M] with every block computed that has text in it."""
        if self.text is None:
            return mask
        dense = blocks_of_span(*self.text, block)
        return with_dense_blocks(mask, dense, dense)

    @property
    def words(self) -> str:
        """For messages: ``4 x 16 x 16 tokens and 226 of text``."""
        text = f" and {self.text[1] - self.text[0]} of text" if self.text else ""
        return " x ".join(map(str, self.size)) + " tokens" + text
