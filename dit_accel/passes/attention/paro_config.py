"""What a PAROAttention plan says: the order of the tokens for each head, and the blocks for each part of a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from dit_accel.errors import ConfigError
from dit_accel.kernels.block_table import BLOCK_SIZES, block_lengths
from dit_accel.kernels.low_bit import Precision
from dit_accel.passes.attention.bits import unpack
from dit_accel.passes.attention.layout import ORDER_NAMES, TokenLayout
from dit_accel.passes.attention.rules import DenseRules, check_precision

NAME = "paro_attention"


def part_of(step: int, num_steps: int, parts: int) -> int:
    """Which part of a run a step belongs to, parts being of as many steps as can be."""
    return min(parts - 1, step * parts // num_steps)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PAROAttentionConfig(DenseRules):
    """Compute those blocks of self-attention that hold its mass, in an order of tokens in which there are few of them.

    Found by :func:`dit_accel.calibration.attention.choose_paro` or ``dit-accel calibrate --attention``; nobody writes
    one by hand.

    Args:
        grid: Frames, rows and columns of the tokens that the masks are for. On another grid everything is computed.
        layers: Ids of the attention sites that the rows of ``orders`` are for. The others stay dense.
        orders: uint8 [L, H], for each head a number of :data:`~dit_accel.passes.attention.layout.ORDERS`.
        masks: uint8 [P, L, H, ceil(M * M / 8)], the M x M block masks as bits. A run is cut into P parts of as many
            steps.
        text: First and one past the last position of text in the sequence; ``None``: the sequence has none.
        block: Tokens in a block.
        precision: Of the products: ``"plain"``, ``"int8"``, ``"int8+plain"`` or ``"int8+float8"``, see
            :func:`~dit_accel.kernels.low_bit_attention.low_bit_attention`.

    Raises:
        ConfigError: The parts do not fit each other.
    """

    type_name: ClassVar[str] = NAME

    grid: tuple[int, int, int]
    layers: tuple[str, ...] = ()
    orders: torch.Tensor
    masks: torch.Tensor
    text: tuple[int, int] | None = None
    block: int = 64
    precision: Precision = "plain"

    def __post_init__(self) -> None:
        self.check_rules()
        check_precision(NAME, self.precision)
        for name in ("grid", "layers", "text"):
            value = getattr(self, name)
            object.__setattr__(self, name, value if value is None else tuple(value))
        if len(self.grid) != 3 or not all(isinstance(size, int) and size > 0 for size in self.grid):
            raise ConfigError(f"'{NAME}': grid must be frames, rows and columns, got {self.grid}")
        if self.text is not None and self.text[0] not in (0, self.layout.num_tokens):
            raise ConfigError(f"'{NAME}': text must stand in front of the tokens or behind them, got {self.text}")
        if self.block not in BLOCK_SIZES:
            raise ConfigError(f"'{NAME}': block must be one of {', '.join(map(str, BLOCK_SIZES))}, got {self.block!r}")
        orders, masks = self.orders, self.masks
        for name, tensor, dimensions in (("orders", orders, 2), ("masks", masks, 4)):
            if not isinstance(tensor, torch.Tensor) or tensor.dtype != torch.uint8 or tensor.ndim != dimensions:
                raise ConfigError(f"'{NAME}': {name} must be a uint8 tensor of {dimensions} dimensions")
        if int(orders.amax()) >= len(ORDER_NAMES) if orders.numel() else False:
            raise ConfigError(f"'{NAME}': orders must be below {len(ORDER_NAMES)}, got {int(orders.amax())}")
        wanted = (len(self.layers), orders.shape[1], -(-(self.num_blocks**2) // 8))
        if orders.shape[0] != len(self.layers) or tuple(masks.shape[1:]) != wanted or not len(masks):
            raise ConfigError(
                f"'{NAME}': {len(self.layers)} layers of {orders.shape[1]} heads and {self.num_blocks} blocks need "
                f"masks [parts, {', '.join(map(str, wanted))}], got {list(masks.shape)}"
            )

    @property
    def layout(self) -> TokenLayout:
        """The sequence that the masks are for."""
        return TokenLayout(self.grid, self.text)

    @property
    def num_blocks(self) -> int:
        """M."""
        return self.layout.num_blocks(self.block)

    @property
    def num_heads(self) -> int:
        """H."""
        return int(self.orders.shape[1])

    @property
    def num_parts(self) -> int:
        """P."""
        return int(self.masks.shape[0])

    def part_of(self, step: int, num_steps: int) -> int:
        """Which part of a run a step belongs to."""
        return part_of(step, num_steps, self.num_parts)

    def mask(self, part: int, layer: int, device: torch.device | str = "cpu") -> torch.Tensor:
        """bool [1, H, M, M]: the blocks that are computed."""
        bits = unpack(self.masks[part, layer].to(device), self.num_blocks**2)
        return bits.view(1, self.num_heads, self.num_blocks, self.num_blocks)

    def densities(self) -> torch.Tensor:
        """fp64 [P, L]: share of a layer's scores that is computed, blocks counted by their tokens."""
        lengths = block_lengths(self.layout.length, self.block)
        weights = lengths[:, None] * lengths
        total = self.num_heads * self.layout.length**2
        found = torch.zeros(self.num_parts, len(self.layers), dtype=torch.float64)
        for part in range(self.num_parts):
            for layer in range(len(self.layers)):
                found[part, layer] = (self.mask(part, layer)[0] * weights).sum() / total
        return found

    def to_dict(self) -> dict[str, Any]:
        return {
            "type": self.type_name,
            "version": self.version,
            "grid": list(self.grid),
            "layers": list(self.layers),
            "text": None if self.text is None else list(self.text),
            "block": self.block,
            "precision": self.precision,
            "dense_steps_frac": self.dense_steps_frac,
            "dense_layers": self.dense_layers,
            "min_tokens": self.min_tokens,
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"orders": self.orders, "masks": self.masks}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> "PAROAttentionConfig":
        cls.check_keys(data)
        missing = {"orders", "masks"} - set(tensors)
        if missing:
            raise ConfigError(
                f"'{NAME}': the plan has no tensors {', '.join(sorted(missing))}: they lie beside its JSON"
            )
        return cls(**data, orders=tensors["orders"], masks=tensors["masks"])
