"""PAROAttention (Zhao et al., arXiv 2506.16054): static block masks over tokens in an order of each head's own.

Heads of a video model attend along frames, rows or columns. In raster order that makes thin diagonals, which touch
nearly every block; in one of the six orders of the axes it makes few full blocks. Orders and masks are found once,
from prompts that are not measured on, and are part of the plan.

Departures: the order is chosen by the mass that the kept blocks hold, not by the published score, whose sign does not
rank thin diagonals right; q, k and v keep their precision unless told otherwise; a run is cut into as many parts as
one likes.
"""

import torch
from torch import Tensor

from dit_accel.families.targets import Target
from dit_accel.kernels.attention import sparse_or_dense, why_dense
from dit_accel.kernels.block_table import BlockTable, table_of
from dit_accel.kernels.low_bit import Precision
from dit_accel.kernels.ordered_attention import moved, ordered_attention
from dit_accel.passes.attention.layers import DEFAULT_STEPS, SparseLayers, device_of, no_attention
from dit_accel.passes.attention.layout import TokenLayout
from dit_accel.passes.attention.paro_config import NAME, PAROAttentionConfig
from dit_accel.passes.attention.routing import SCORES, routable
from dit_accel.passes.base import Pass, register_pass
from dit_accel.runtime.call import Call, Effect, Inner, Run
from dit_accel.runtime.denoiser import DenoiserRuntime
from dit_accel.runtime.trees import Tree


class PermutedAttention:
    """Attention of one layer over some blocks of permuted tokens.

    Args:
        orders: int64 [H], see :class:`PAROAttentionConfig`.
        block: Tokens in a block.
        precision: Of the products.

    Attributes:
        table: Of the current part of the run; tensors of one shape in all parts, so that no graph is compiled twice.
        permutations: int64 [6, N].
        inverses: int64 [6, N].
    """

    def __init__(self, orders: Tensor, block: int, precision: Precision = "plain") -> None:
        self.orders = orders
        self.block = block
        self.precision: Precision = precision
        self.moves = bool(orders.any())
        self.table: BlockTable | None = None
        self.permutations = self.inverses = torch.empty(0)

    @classmethod
    def of(cls, config: PAROAttentionConfig, part: int, layer: int, device: torch.device) -> "PermutedAttention":
        """That of one layer of a plan, by its place there, in one part of a run."""
        found = cls(config.orders[layer].long().to(device), config.block, config.precision)
        found.permutations, found.inverses = (
            each.to(device) for each in (config.layout.permutations, config.layout.inverses)
        )
        found.table = BlockTable.from_mask(
            config.mask(part, layer, device), block_q=config.block, block_k=config.block, backward=False
        )
        return found

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        """[B, N, H, D]."""
        assert self.table is not None
        if not self.moves:
            return sparse_or_dense(q, k, v, self.table, scale=scale, precision=self.precision)
        if self.precision == "plain" and why_dense(q) is None and not _wants_gradient(q, k, v):
            return ordered_attention(q, k, v, self.table, self.permutations[self.orders].int(), scale=scale)
        there, back = self.permutations[self.orders].mT, self.inverses[self.orders].mT  # [N, H]
        q, k, v = (moved(each, there) for each in (q, k, v))
        return moved(sparse_or_dense(q, k, v, self.table, scale=scale, precision=self.precision), back)


class ParoMasks:
    """Stands around every call of one denoiser and gives each layer the table of the step.

    Args:
        runtime: Of the denoiser.
        config: The plan.

    Attributes:
        sparse: The attention of the denoiser.
    """

    def __init__(self, runtime: DenoiserRuntime, config: PAROAttentionConfig) -> None:
        self.config = config
        self.sparse = SparseLayers(runtime, by=NAME)
        names = [layer.site_id for layer in self.sparse.layers]
        # For each layer of the denoiser its place among those of the plan.
        self._places = [
            config.layers.index(name) if name in config.layers and number >= config.dense_layers else None
            for number, name in enumerate(names)
        ]
        self._attends = [
            None if place is None else PermutedAttention(config.orders[place].long(), config.block, config.precision)
            for place in self._places
        ]
        self._widths = _widths(config)
        self._densities: list[list[float]] = config.densities().tolist()
        self._loaded: tuple[int, torch.device] | None = None

    def begin(self, run: Run) -> None:
        """A run begins: are the masks for its tokens?"""
        self.sparse.begin(length=self.config.layout.length, dense_because=self._why_dense(run))

    def __call__(self, call: Call, inner: Inner) -> Tree:
        """Choose the tables, then compute."""
        steps = call.run.num_steps
        if self.sparse.dense_because is not None or call.step < self.config.dense_steps(steps):
            return self.sparse.compute(call, inner, [None] * len(self._places), [0.0] * len(self._places))
        part = self.config.part_of(call.step, steps)
        self._load(part, device_of(call))
        return self.sparse.compute(call, inner, self._attends, self._left_out(part))

    def planned(self, num_steps: int) -> float:
        """Share of all self-attention scores of a run that is not computed."""
        steps = range(self.config.dense_steps(num_steps), num_steps)
        left_out = sum(sum(self._left_out(self.config.part_of(step, num_steps))) for step in steps)
        return left_out / (num_steps * max(1, len(self._places)))

    def _left_out(self, part: int) -> list[float]:
        return [0.0 if place is None else 1 - self._densities[part][place] for place in self._places]

    def _why_dense(self, run: Run) -> str | None:
        config, dense = self.config, f"'{NAME}' leaves '{self.sparse.runtime.name}' dense:"
        if run.grid is None:
            return f"{dense} the frames, rows and columns of its tokens cannot be told from its call"
        layout = TokenLayout.of(run.grid)
        if layout is None or layout != config.layout:
            found = layout.words if layout is not None else f"{run.grid.num_tokens} tokens and reference pictures"
            return (
                f"{dense} its masks are for {config.layout.words} and this run has {found}; calibrate for this size "
                "(dit_accel.calibration.attention)"
            )
        if layout.length < config.min_tokens:
            return f"{dense} {layout.length} tokens are fewer than min_tokens = {config.min_tokens}"
        return None

    def _load(self, part: int, device: torch.device) -> None:
        """Unpack the masks of a part of the run: once for its steps and guidance branches."""
        if self._loaded == (part, device):
            return
        self._loaded = (part, device)
        layout = self.config.layout
        permutations, inverses = layout.permutations.to(device), layout.inverses.to(device)
        for place, attend in zip(self._places, self._attends, strict=True):
            if attend is None or place is None:
                continue
            lut, counts = table_of(self.config.mask(part, place, device))
            attend.orders = attend.orders.to(device)
            attend.permutations, attend.inverses = permutations, inverses
            attend.table = BlockTable(
                lut=lut[..., : self._widths[place]].contiguous(),
                counts=counts,
                num_key_blocks=self.config.num_blocks,
                block_q=self.config.block,
                block_k=self.config.block,
            )


def apply_paro(runtime: DenoiserRuntime, config: PAROAttentionConfig) -> None:
    """Give every self-attention of one denoiser a route, and choose its table at every call."""
    masks = ParoMasks(runtime, config)
    runtime.each_run(masks.begin, by=NAME)
    # Inside of passes that answer calls: tables are for calls that happen.
    runtime.around(masks, order=100, by=NAME)


def effect_of_paro(runtime: DenoiserRuntime, config: PAROAttentionConfig) -> Effect:
    """Share of the self-attention scores that were not computed."""
    masks = runtime.around_of(NAME)
    assert isinstance(masks, ParoMasks)
    return masks.sparse.effect(masks.planned(runtime.stats.num_steps if runtime.stats.calls else DEFAULT_STEPS))


def _wants_gradient(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(each.requires_grad for each in tensors)


def _widths(config: PAROAttentionConfig) -> list[int]:
    """The fullest row of each layer in any part of the run: one shape of table for all of them."""
    parts, layers = range(config.num_parts), range(len(config.layers))
    return [max(1, *(int(config.mask(p, layer).sum(-1).amax()) for p in parts)) for layer in layers]


def _obstacles(target: Target, config: PAROAttentionConfig) -> list[str]:
    found = {site.info.id: module for site, module in routable(target)}
    if not found:
        return no_attention(target)
    missing = [layer for layer in config.layers if layer not in found]
    if missing:
        return [
            f"the masks are for layers that it does not have ({', '.join(missing[:3])}): they are of another model"
        ]
    wrong = [layer for layer in config.layers if getattr(found[layer], "heads", config.num_heads) != config.num_heads]
    if wrong:
        return [
            f"the masks are for {config.num_heads} heads and '{wrong[0]}' has {getattr(found[wrong[0]], 'heads', '?')}"
        ]
    return []


def _example() -> PAROAttentionConfig:
    nothing = torch.zeros(0, 1, dtype=torch.uint8), torch.zeros(1, 0, 1, 1, dtype=torch.uint8)
    return PAROAttentionConfig(grid=(1, 1, 1), orders=nothing[0], masks=nothing[1])


register_pass(
    Pass(
        config=PAROAttentionConfig,
        summary="computes the blocks of self-attention that hold its mass, tokens in an order of each head's own",
        phase="modules",
        claims=frozenset((SCORES,)),
        obstacles=_obstacles,
        example=_example,
        apply=apply_paro,
        effect=effect_of_paro,
    )
)
