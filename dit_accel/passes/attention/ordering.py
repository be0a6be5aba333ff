"""The order that blocks are cut from, for passes that find their blocks themselves: the model's own, or tiles."""

from typing import Literal

import torch
from torch import Tensor

from dit_accel.errors import ConfigError
from dit_accel.passes.attention.layout import TokenLayout
from dit_accel.passes.attention.static_patterns import order_of

Order = Literal["raster", "tiles"]


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
        self.places: tuple[Tensor, Tensor] | None = None

    def begin(self, layout: TokenLayout | None) -> None:
        """A run begins; where its tokens have no places they stay as they are."""
        self.places = None
        if self.order == "tiles" and layout is not None:
            there = order_of(layout, "tiles", self.block)
            assert there is not None
            self.places = there, there.argsort()

    def there(self, *tokens: Tensor) -> tuple[Tensor, ...]:
        """Each [B, N, H, D] in the order."""
        if self.places is None:
            return tokens
        self._follow(tokens[0].device)
        return tuple(each.index_select(1, self.places[0]) for each in tokens)

    def back(self, tokens: Tensor) -> Tensor:
        """[B, N, H, D] as they were."""
        return tokens if self.places is None else tokens.index_select(1, self.places[1])

    def _follow(self, device: torch.device) -> None:
        assert self.places is not None
        if self.places[0].device != device:
            self.places = self.places[0].to(device), self.places[1].to(device)


def check_order(name: str, order: str) -> None:
    """The order of a pass is one that there is.

    Raises:
        ConfigError: It is not.
    """
    if order not in ("raster", "tiles"):
        raise ConfigError(f"'{name}': order must be raster or tiles, got {order!r}")
