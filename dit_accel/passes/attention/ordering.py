"""The order that blocks are cut from, for passes that find their blocks themselves: the model's own, or tiles."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from dit_accel.errors import ConfigError
from dit_accel.passes.attention.choosing import CACHED, AttendedSequence
from dit_accel.passes.attention.layout import TokenLayout
from dit_accel.passes.attention.static_patterns import order_of

Order = Literal["raster", "tiles"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Places:
    """An order of tokens.

    Attributes:
        there: int64 [N], the tokens in it.
        back: int64 [N], its inverse.
    """

    there: Tensor
    back: Tensor

    def to(self, device: torch.device) -> "Places":
        """The same on a device."""
        return Places(there=self.there.to(device), back=self.back.to(device))


class TokenOrder:
    """Brings tokens into an order and back.

    Args:
        order: ``"raster"``: as they are; ``"tiles"``: small boxes of frames, rows and columns one after the other, so
            that a block of tokens is near in all three.
        block: Tokens in a block.
    """

    def __init__(self, order: Order, block: int) -> None:
        self.order: Order = order
        self.block = block
        self.places: Places | None = None

    def begin(self, sequence: AttendedSequence) -> None:
        """A run begins; where its tokens have no places they stay as they are."""
        self.places = None
        if self.order == "tiles" and sequence.layout is not None:
            self.places = sequence.copy_of(_tiles(sequence.layout, self.block))

    def there(self, *tokens: Tensor) -> tuple[Tensor, ...]:
        """Each [B, N, H, D] in the order."""
        if self.places is None:
            return tokens
        return tuple(each.index_select(1, self.places.there) for each in tokens)

    def back(self, tokens: Tensor) -> Tensor:
        """[B, N, H, D] as they were."""
        return tokens if self.places is None else tokens.index_select(1, self.places.back)


def check_order(name: str, order: str) -> None:
    """The order of a pass is one that there is.

    Raises:
        ConfigError: It is not.
    """
    if order not in ("raster", "tiles"):
        raise ConfigError(f"'{name}': order must be raster or tiles, got {order!r}")


@lru_cache(maxsize=CACHED)
@torch.inference_mode(False)
def _tiles(layout: TokenLayout, block: int) -> Places:
    there = order_of(layout, "tiles", block)
    assert there is not None
    return Places(there=there, back=there.argsort())
