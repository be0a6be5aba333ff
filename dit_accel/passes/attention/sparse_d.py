"""SparseD (Wang et al., arXiv 2509.24014), made for diffusion language models, on pictures and videos.

The first steps are dense, since they decide what is drawn. At the last of them each layer sees, for each head, which
blocks of keys hold the attention of each block of queries, and computes only these from there on: heads differ much,
steps little. Nothing is calibrated and nothing is trained.

Departures: the published code scales the scores by the root of the number of heads in this one place, we by the root
of the head size; it keeps one block more than it says. Keys of text and of the picture are ranked apart, as there, but
by one softmax over all of them. Queries of text see everything.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dit_accel.errors import ConfigError
from dit_accel.kernels.attention import dense, sparse_or_dense
from dit_accel.kernels.block_table import BLOCK_SIZES, BlockTable, blocks_of_span, num_blocks
from dit_accel.kernels.low_bit import Precision
from dit_accel.kernels.pooled_scores import pooled_scores
from dit_accel.passes.attention.choosing import AttendedSequence
from dit_accel.passes.attention.layers import DEFAULT_STEPS, SparseLayers, device_of, no_attention
from dit_accel.passes.attention.ordering import Order, TokenOrder, check_order
from dit_accel.passes.attention.routing import SCORES
from dit_accel.passes.attention.rules import DenseRules, check_precision
from dit_accel.passes.base import Pass, register_pass
from dit_accel.runtime.call import Call, Effect, Inner, Run
from dit_accel.runtime.denoiser import DenoiserRuntime
from dit_accel.runtime.trees import Tree

NAME = "sparse_d"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SparseDConfig(DenseRules):
    """Look once which blocks of keys each head needs, and compute only these from then on.

    Args:
        density: Share of the key blocks that each block of queries keeps, at least one; of the keys of text as large a
            share of their own.
        block: Tokens in a block.
        order: What blocks are cut from: tokens as they are, ``"raster"``, or small boxes of frames, rows and columns,
            ``"tiles"``, which gathers what is near into few blocks and costs four permutations.
        precision: Of the products: ``"plain"``, ``"int8"``, ``"int8+plain"`` or ``"int8+float8"``, see
            :func:`~dit_accel.kernels.low_bit_attention.low_bit_attention`.
        dense_steps_frac: Share of the steps that are dense; there is at least one, which the masks are taken from.

    Raises:
        ConfigError: A value out of range.
    """

    type_name: ClassVar[str] = NAME

    density: float = 0.3
    block: int = 64
    order: Order = "raster"
    precision: Precision = "plain"
    dense_steps_frac: float = 0.2

    def __post_init__(self) -> None:
        self.check_rules()
        check_precision(NAME, self.precision)
        check_order(NAME, self.order)
        if not isinstance(self.density, int | float) or not 0 < self.density <= 1:
            raise ConfigError(f"'{NAME}': density must be a number in (0, 1], got {self.density!r}")
        if self.block not in BLOCK_SIZES:
            raise ConfigError(f"'{NAME}': block must be one of {', '.join(map(str, BLOCK_SIZES))}, got {self.block!r}")

    def dense_steps(self, num_steps: int) -> int:
        return max(1, super(SparseDConfig, self).dense_steps(num_steps))

    def kept(self, blocks: int) -> int:
        """How many of so many key blocks a block of queries keeps."""
        return min(blocks, max(1, round(self.density * blocks)))


class OneShot:
    """Attention of one layer: whole until there is a table, and over that table from then on.

    Args:
        config: The pass's.

    Attributes:
        tables: By guidance branch.
        branch: Of the call that is running.
        text: The span of text in the sequence.
        order: Of the tokens.
    """

    def __init__(self, config: SparseDConfig) -> None:
        self.config = config
        self.tables: dict[Hashable, BlockTable] = {}
        self.branch: Hashable = None
        self.text: tuple[int, int] | None = None
        self.order = TokenOrder(config.order, config.block)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        """[B, N, H, D]."""
        q, k, v = self.order.there(q, k, v)
        return self.order.back(self._attended(q, k, v, scale))

    def _attended(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        table = self.tables.get(self.branch)
        if table is not None:
            return sparse_or_dense(q, k, v, table, scale=scale, precision=self.config.precision)
        sums = pooled_scores(q, k, scale=scale, block_q=self.config.block, block_k=self.config.block).sums
        mask = best_blocks(sums, self.config, self.text)
        self.tables[self.branch] = BlockTable.from_mask(
            mask, block_q=self.config.block, block_k=self.config.block, backward=False
        )
        return dense(q, k, v, scale=scale)


def best_blocks(sums: Tensor, config: SparseDConfig, text: tuple[int, int] | None) -> Tensor:
    """bool [B, H, M, M]: the key blocks that hold most of each row's weight, text and picture ranked apart.

    Args:
        sums: Of the softmax weights by blocks, [B, H, M, M].
        config: The pass's.
        text: First and one past the last token of text; a block with any of it in it counts as text.
    """
    mask = torch.zeros_like(sums, dtype=torch.bool)
    of_text = list(blocks_of_span(*text, config.block)) if text is not None else []
    of_picture = [block for block in range(sums.shape[-1]) if block not in of_text]
    for some in (of_text, of_picture):
        if some:
            columns = torch.tensor(some, device=sums.device)
            best = columns[sums[..., columns].topk(config.kept(len(some)), dim=-1).indices]
            mask.scatter_(-1, best, True)
    mask[..., of_text, :] = True
    return mask


class SparseD:
    """Stands around every call of one denoiser: says which branch and which step it is.

    Args:
        runtime: Of the denoiser.
        config: The pass's.
    """

    def __init__(self, runtime: DenoiserRuntime, config: SparseDConfig) -> None:
        self.config = config
        self.sparse = SparseLayers(runtime, by=NAME)
        self._attends = [
            OneShot(config) if number >= config.dense_layers else None for number in range(len(self.sparse.layers))
        ]
        self.sequence = AttendedSequence()
        self._share = 0.0

    def begin(self, run: Run) -> None:
        """A run begins: what was seen in the last one is forgotten."""
        self.sequence = AttendedSequence.of(run.grid)
        length, text = self.sequence.length, self.sequence.text
        reason = None
        if length is not None and length < self.config.min_tokens:
            reason = (
                f"'{NAME}' leaves '{self.sparse.runtime.name}' dense: {length} tokens are fewer than min_tokens = "
                f"{self.config.min_tokens}"
            )
        self.sparse.begin(length=length, dense_because=reason)
        for attend in self._attends:
            if attend is not None:
                attend.tables, attend.text = {}, text
        self._share = 1 - self.config.density if length is None else self._left_out(length, text)

    def __call__(self, call: Call, inner: Inner) -> Tree:
        """Whole, looking, or sparse."""
        steps = self.config.dense_steps(call.run.num_steps)
        looks = self.sparse.dense_because is None and call.step >= steps - 1
        shares = [0.0] * len(self._attends)
        self.sequence = self.sequence.on(device_of(call))
        for place, attend in enumerate(self._attends):
            if attend is None:
                continue
            attend.branch = call.branch
            attend.order.begin(self.sequence)
            if call.begins:
                attend.tables.pop(call.branch, None)
            if call.branch in attend.tables:
                shares[place] = self._share
        return self.sparse.compute(call, inner, self._attends if looks else [None] * len(self._attends), shares)

    def planned(self, num_steps: int) -> float:
        """Share of all self-attention scores of a run that is not computed."""
        acting = sum(attend is not None for attend in self._attends) / max(1, len(self._attends))
        share = self._share or 1 - self.config.density
        return acting * share * max(0, num_steps - self.config.dense_steps(num_steps)) / num_steps

    def _left_out(self, length: int, text: tuple[int, int] | None) -> float:
        """By blocks; which of them is the ragged one is not known without waiting for the device."""
        blocks = num_blocks(length, self.config.block)
        of_text = len(blocks_of_span(*text, self.config.block)) if text is not None else 0
        kept = self.config.kept(blocks - of_text) + (self.config.kept(of_text) if of_text else 0)
        return (blocks - of_text) * (blocks - kept) / blocks**2


def apply_sparse_d(runtime: DenoiserRuntime, config: SparseDConfig) -> None:
    """Give every self-attention of one denoiser a route that looks once."""
    passing = SparseD(runtime, config)
    runtime.each_run(passing.begin, by=NAME)
    runtime.around(passing, order=100, by=NAME)
    runtime.stay_eager("takes its masks from the attention of the running call", by=NAME)


def effect_of_sparse_d(runtime: DenoiserRuntime, config: SparseDConfig) -> Effect:
    """Share of the self-attention scores that were not computed."""
    passing = runtime.around_of(NAME)
    assert isinstance(passing, SparseD)
    return passing.sparse.effect(passing.planned(runtime.stats.num_steps if runtime.stats.calls else DEFAULT_STEPS))


register_pass(
    Pass(
        config=SparseDConfig,
        summary="looks once which blocks each attention head needs, and computes only these from then on",
        phase="modules",
        claims=frozenset((SCORES,)),
        obstacles=lambda target, config: no_attention(target),
        example=SparseDConfig,
        apply=apply_sparse_d,
        effect=effect_of_sparse_d,
    )
)
