"""Static masks that nobody calibrates: the rivals of masks that somebody does.

Windows, sliding tiles (STA) and radial attention choose their blocks by the places of tokens alone. They cost nothing
to choose and need nothing to be looked at; what they lose to a chosen mask of the same density is in
``docs/attention.md``.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from dit_accel.errors import ConfigError
from dit_accel.kernels.attention import sparse_or_dense
from dit_accel.kernels.block_table import BLOCK_SIZES, BlockTable, block_lengths
from dit_accel.kernels.low_bit import Precision
from dit_accel.passes.attention.choosing import CACHED, AttendedSequence, Choosing
from dit_accel.passes.attention.layers import DEFAULT_STEPS, no_attention
from dit_accel.passes.attention.layout import TokenLayout
from dit_accel.passes.attention.routing import SCORES
from dit_accel.passes.attention.rules import DenseRules, check_precision
from dit_accel.passes.attention.static_patterns import PATTERNS, Pattern, order_of, static_mask
from dit_accel.passes.base import Pass, register_pass
from dit_accel.runtime.call import Effect
from dit_accel.runtime.denoiser import DenoiserRuntime

NAME = "static_mask"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StaticMaskConfig(DenseRules):
    """Compute the blocks of attention whose tokens are near each other, the same ones in every head, layer and step.

    Args:
        pattern: ``"window"``, ``"tiles"`` or ``"radial"``; see
            :func:`~dit_accel.passes.attention.static_patterns.static_mask`.
        density: Share of the key blocks that each block of queries computes, at least one; text not counted.
        block: Tokens in a block.
        precision: Of the products: ``"plain"``, ``"int8"``, ``"int8+plain"`` or ``"int8+float8"``, see
            :func:`~dit_accel.kernels.low_bit_attention.low_bit_attention`.

    Raises:
        ConfigError: A value out of range.
    """

    type_name: ClassVar[str] = NAME

    pattern: Pattern = "tiles"
    density: float = 0.3
    block: int = 64
    precision: Precision = "plain"

    def __post_init__(self) -> None:
        self.check_rules()
        check_precision(NAME, self.precision)
        check_static(NAME, self.pattern, self.density, self.block)


def check_static(name: str, pattern: str, density: float, block: int) -> None:
    """The settings of a static mask make sense.

    Raises:
        ConfigError: They do not.
    """
    if not isinstance(density, int | float) or not 0 < density <= 1:
        raise ConfigError(f"'{name}': density must be a number in (0, 1], got {density!r}")
    if pattern not in PATTERNS:
        raise ConfigError(f"'{name}': pattern must be one of {', '.join(PATTERNS)}, got {pattern!r}")
    if block not in BLOCK_SIZES:
        raise ConfigError(f"'{name}': block must be one of {', '.join(map(str, BLOCK_SIZES))}, got {block!r}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StaticTable:
    """A static mask of one sequence, on one device.

    Attributes:
        table: Its blocks.
        rest: All others.
        density: Share of the scores that ``table`` computes.
        order: int64 [N], the tokens in the order that blocks are cut from; ``None``: the model's.
        back: Its inverse.
    """

    table: BlockTable
    rest: BlockTable
    density: float
    order: Tensor | None
    back: Tensor | None

    def to(self, device: torch.device) -> "StaticTable":
        """The same on a device; itself if it is there."""
        if self.table.lut.device == device:
            return self
        order, back = (None if each is None else each.to(device) for each in (self.order, self.back))
        return StaticTable(
            table=self.table.to(device), rest=self.rest.to(device), density=self.density, order=order, back=back
        )

    def ordered(self, tokens: Tensor) -> Tensor:
        """[B, N, H, D] in the order that blocks are cut from."""
        return tokens if self.order is None else tokens.index_select(1, self.order)

    def restored(self, tokens: Tensor) -> Tensor:
        """[B, N, ...] in the model's order again."""
        return tokens if self.back is None else tokens.index_select(1, self.back)


@lru_cache(maxsize=CACHED)
@torch.inference_mode(False)
def static_table(layout: TokenLayout, pattern: Pattern, *, block: int, density: float) -> StaticTable:
    """The mask of a sequence, on the CPU; made once for all layers and runs."""
    mask = static_mask(layout, pattern, block=block, density=density)
    order = order_of(layout, pattern, block)
    lengths = block_lengths(layout.length, block).double()
    share = float(torch.einsum("ij,i,j->", mask.double(), lengths, lengths)) / layout.length**2
    table, rest = (
        BlockTable.from_mask(each[None, None], block_q=block, block_k=block, backward=False) for each in (mask, ~mask)
    )
    back = None if order is None else order.argsort()
    return StaticTable(table=table, rest=rest, density=share, order=order, back=back)


class StaticAttention:
    """Attention of one layer over a static mask.

    Args:
        config: The pass's.

    Attributes:
        static: The mask of the run; all layers share it.
    """

    def __init__(self, config: StaticMaskConfig) -> None:
        self.config = config
        self.static: StaticTable | None = None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        """[B, N, H, D]."""
        static = self.static
        assert static is not None
        q, k, v = (static.ordered(each) for each in (q, k, v))
        return static.restored(sparse_or_dense(q, k, v, static.table, scale=scale, precision=self.config.precision))

    def begin(self, sequence: AttendedSequence) -> None:
        """A run begins."""
        assert sequence.layout is not None
        config = self.config
        static = static_table(sequence.layout, config.pattern, block=config.block, density=config.density)
        self.static = sequence.copy_of(static)

    def left_out(self, sequence: AttendedSequence) -> float:
        """Exactly."""
        return 1 - (self.config.density if self.static is None else self.static.density)


def apply_static_mask(runtime: DenoiserRuntime, config: StaticMaskConfig) -> None:
    """Give every self-attention of one denoiser a route over the mask."""
    passing = Choosing(runtime, config, needs_layout=True)
    for number in passing.acting():
        passing.attends[number] = StaticAttention(config)
    runtime.each_run(passing.begin, by=NAME)
    runtime.around(passing, order=100, by=NAME)


def effect_of_static_mask(runtime: DenoiserRuntime, config: StaticMaskConfig) -> Effect:
    """Share of the self-attention scores that were not computed."""
    passing = runtime.around_of(NAME)
    assert isinstance(passing, Choosing)
    return passing.sparse.effect(passing.planned(runtime.stats.num_steps if runtime.stats.calls else DEFAULT_STEPS))


register_pass(
    Pass(
        config=StaticMaskConfig,
        summary="computes the blocks of self-attention whose tokens are near each other, by a fixed rule",
        phase="modules",
        claims=frozenset((SCORES,)),
        obstacles=lambda target, config: no_attention(target),
        example=StaticMaskConfig,
        apply=apply_static_mask,
        effect=effect_of_static_mask,
    )
)
