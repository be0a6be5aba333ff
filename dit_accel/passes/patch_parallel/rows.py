"""Which rows of a picture each rank computes, and how the parts of all ranks become one picture again."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch

from dit_accel.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Share:
    """The rows of one rank among those of all.

    Ranks get whole units of ``unit`` rows, as equal as can be: the first ones one unit more where it does not come out
    even. Rows that no whole unit covers are refused, since a UNet could not halve them on every rank.

    Args:
        rows: Rows of the whole picture: of tokens, or of latent cells for a UNet.
        unit: Rows that stay together: what a UNet makes one row of at its coarsest grid; 1 for transformers.
        size: Ranks.
        rank: This one.

    Attributes:
        counts: Rows of each rank.

    Raises:
        ConfigError: There are fewer units than ranks, or the rows are no whole number of units.
    """

    rows: int
    unit: int
    size: int
    rank: int
    counts: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        units, rest = divmod(self.rows, self.unit)
        if rest:
            raise ConfigError(
                f"{self.rows} rows cannot be split: the model halves them until {self.unit} are one, and they are no "
                f"multiple of {self.unit}; choose another height"
            )
        if units < self.size:
            raise ConfigError(
                f"{self.rows} rows are too few for {self.size} ranks, each needs {self.unit}: use at most {units} "
                "ranks for the patches, or draw larger"
            )
        even, more = divmod(units, self.size)
        object.__setattr__(self, "counts", tuple((even + (r < more)) * self.unit for r in range(self.size)))

    @property
    def start(self) -> int:
        """First row of this rank."""
        return sum(self.counts[: self.rank])

    @property
    def own(self) -> int:
        """Rows of this rank."""
        return self.counts[self.rank]

    @property
    def frac(self) -> float:
        """Share of the rows that are this rank's."""
        return self.own / self.rows

    @property
    def bounds(self) -> tuple[int, ...]:
        """First row of each rank, and one past the last row."""
        return (0, *accumulate(self.counts))

    def scaled(self, own: int) -> tuple[int, ...]:
        """What each rank has of something of which this one has ``own``: rows of a coarser grid, tokens, elements."""
        return tuple(own * count // self.own for count in self.counts)

    def cut(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        """This rank's rows of a tensor with all rows in ``dim``."""
        return tensor.narrow(dim, self.start, self.own)


@dataclass(frozen=True, slots=True)
class TokenRows:
    """How this rank's tokens lie in a sequence: text, if any, then frames of its rows, or the other way round.

    Args:
        share: Rows of this rank.
        frames: Token frames.
        columns: Token columns.
        text: Text tokens, which every rank has all of.
        text_first: Whether they stand in front of the picture's.
    """

    share: Share
    frames: int
    columns: int
    text: int = 0
    text_first: bool = True

    @property
    def num_tokens(self) -> int:
        """Of the whole picture, without text."""
        return self.frames * self.share.rows * self.columns

    def cut(self, tensor: torch.Tensor, dim: int, *, with_text: bool) -> torch.Tensor:
        """This rank's tokens of a sequence of all tokens in ``dim``; text tokens, if it has any, stay."""
        text, picture = self.parted(tensor, dim) if with_text else (None, tensor)
        grid = picture.unflatten(dim, (self.frames, self.share.rows, self.columns))
        return self.joined(text, self.share.cut(grid, dim + 1).flatten(dim, dim + 2), dim)

    def parted(self, tensor: torch.Tensor, dim: int) -> tuple[torch.Tensor | None, torch.Tensor]:
        """A sequence's text tokens and the picture's."""
        if not self.text:
            return None, tensor
        if self.text_first:
            text, picture = tensor.tensor_split([self.text], dim)
        else:
            picture, text = tensor.tensor_split([tensor.shape[dim] - self.text], dim)
        return text, picture

    def joined(self, text: torch.Tensor | None, picture: torch.Tensor, dim: int) -> torch.Tensor:
        """The opposite of :meth:`parted`."""
        if text is None:
            return picture
        return torch.cat([text, picture] if self.text_first else [picture, text], dim)

    def whole(self, parts: Sequence[torch.Tensor], dim: int) -> torch.Tensor:
        """The tokens of all ranks, in the order in which one process has them.

        Args:
            parts: Of each rank, its tokens in ``dim``.
            dim: That axis.
        """
        if self.frames == 1:
            return torch.cat(list(parts), dim)
        grids = [part.unflatten(dim, (self.frames, -1)) for part in parts]
        return torch.cat(grids, dim + 1).flatten(dim, dim + 1)
