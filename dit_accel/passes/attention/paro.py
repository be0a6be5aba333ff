"""PAROAttention (Zhao et al., arXiv 2506.16054): static block masks over tokens that each head sees in an order of its
own.

Heads of a video model attend along frames, rows or columns. In raster order that makes thin diagonals, which touch
nearly every block; in one of the six orders of the axes it makes few full blocks. Orders and masks are found once,
from prompts that are not measured on, and are part of the plan.

Departures: the order is chosen by the mass that the kept blocks hold (the published score is an option of the
calibration); q, k and v keep their precision; masks are cut by parts of the run, as many as one likes.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dit_accel.families.targets import Target
from dit_accel.kernels.attention import sparse_or_dense
from dit_accel.kernels.block_table import BlockTable, table_of
from dit_accel.passes.attention.layout import TokenLayout
from dit_accel.passes.attention.paro_config import NAME, PAROAttentionConfig
from dit_accel.passes.attention.routing import SCORES, Route, is_routed, routable, route
from dit_accel.passes.base import Pass, register_pass
from dit_accel.runtime.call import Call, Effect, Inner, Run
from dit_accel.runtime.denoiser import DenoiserRuntime
from dit_accel.runtime.trees import Tree

WHAT = "attention scores not computed"
DEFAULT_STEPS = 20  # what the plan says before the first run


class PermutedAttention:
    """Attention of one layer over some blocks of permuted tokens.

    Args:
        orders: int64 [H], see :class:`PAROAttentionConfig`.
        block: Tokens in a block.

    Attributes:
        table: Of the current part of the run; tensors of one shape in all parts, so that no graph is compiled twice.
        permutations: int64 [6, N].
        inverses: int64 [6, N].
    """

    def __init__(self, orders: Tensor, block: int) -> None:
        self.orders = orders
        self.block = block
        self.moves = bool(orders.any())
        self.table: BlockTable | None = None
        self.permutations = self.inverses = torch.empty(0)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        """[B, N, H, D]."""
        assert self.table is not None
        if not self.moves:
            return sparse_or_dense(q, k, v, self.table, scale=scale)
        there, back = self.permutations[self.orders].mT, self.inverses[self.orders].mT  # [N, H]
        q, k, v = (_moved(each, there) for each in (q, k, v))
        return _moved(sparse_or_dense(q, k, v, self.table, scale=scale), back)


@dataclass(slots=True)
class _Layer:
    """One attention module."""

    site_id: str
    module: nn.Module
    route: Route
    place: int | None
    attend: PermutedAttention | None


class ParoMasks:
    """Stands around every call of one denoiser and gives each layer the table of the step.

    Args:
        runtime: Of the denoiser.
        config: The plan.
    """

    def __init__(self, runtime: DenoiserRuntime, config: PAROAttentionConfig) -> None:
        self.runtime = runtime
        self.config = config
        self.dense_because: str | None = None
        self._left_out = 0.0
        self.layers: list[_Layer] = []
        for number, (site, module) in enumerate(routable(runtime.target)):
            found = route(module, runtime.ledger, by=NAME)
            site_id = site.info.id
            place = config.layers.index(site_id) if site_id in config.layers else None
            if place is None or number < config.dense_layers:
                self.layers.append(_Layer(site_id, module, found, None, None))
            else:
                attend = PermutedAttention(config.orders[place].long(), config.block)
                self.layers.append(_Layer(site_id, module, found, place, attend))
        self._widths = _widths(config)
        self._part: tuple[int, torch.device] | None = None
        self._densities: list[list[float]] = config.densities().tolist()

    def begin(self, run: Run) -> None:
        """A run begins: are the masks for its tokens?"""
        self.dense_because = self._why_dense(run)
        for layer in self.layers:
            layer.route.reset(self.config.layout.length)
        self._left_out = 0.0
        if self.dense_because is not None:
            self.runtime.warn(self.dense_because)

    def __call__(self, call: Call, inner: Inner) -> Tree:
        """Choose the tables, then compute."""
        sparse = self.dense_because is None and call.step >= self.config.dense_steps(call.run.num_steps)
        part = self.config.part_of(call.step, call.run.num_steps)
        if sparse:
            self._load(part, _device_of(call))
            # A row's graph is compiled for sparse steps or for dense ones.
            call.row = replace(call.row, variant=(call.row.variant, NAME))
        before = [layer.route.answered for layer in self.layers]
        for layer in self.layers:
            layer.route.attend = layer.attend if sparse else None
        try:
            return inner(call)
        finally:
            for layer, count in zip(self.layers, before, strict=True):
                layer.route.attend = None
                if layer.place is not None:
                    self._left_out += (layer.route.answered - count) * (1 - self._densities[part][layer.place])

    def planned(self, num_steps: int) -> float:
        """Share of all self-attention scores of a run that is not computed."""
        if not self.layers:
            return 0.0
        left_out = 0.0
        for step in range(self.config.dense_steps(num_steps), num_steps):
            part = self.config.part_of(step, num_steps)
            left_out += sum(1 - self._densities[part][each.place] for each in self.layers if each.place is not None)
        return left_out / (num_steps * len(self.layers))

    @property
    def actual(self) -> float | None:
        """Share of the scores of all attention calls of the run that was not computed; ``None``: not counted."""
        calls = sum(layer.route.calls for layer in self.layers)
        return self._left_out / calls if calls else None

    @property
    def shortfall(self) -> str | None:
        """Why layers computed everything although they should not have."""
        if self.dense_because is not None:
            return self.dense_because
        found = {reason: None for layer in self.layers for reason in layer.route.refusals}
        if any(layer.attend is not None and not is_routed(layer.module, layer.route) for layer in self.layers):
            found["someone has replaced their processors; apply the plan again after that"] = None
        if not found:
            return None
        return f"'{NAME}': some attention of '{self.runtime.name}' was computed whole: {'; '.join(found)}"

    def _why_dense(self, run: Run) -> str | None:
        config = self.config
        dense = f"'{NAME}' leaves '{self.runtime.name}' dense:"
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
        if self._part == (part, device):
            return
        self._part = (part, device)
        layout = self.config.layout
        permutations, inverses = layout.permutations.to(device), layout.inverses.to(device)
        for layer in self.layers:
            if layer.attend is None or layer.place is None:
                continue
            lut, counts = table_of(self.config.mask(part, layer.place, device))
            layer.attend.orders = layer.attend.orders.to(device)
            layer.attend.permutations, layer.attend.inverses = permutations, inverses
            layer.attend.table = BlockTable(
                lut=lut[..., : self._widths[layer.place]].contiguous(),
                counts=counts,
                num_key_blocks=self.config.num_blocks,
                block_q=self.config.block,
                block_k=self.config.block,
            )


def apply_paro(runtime: DenoiserRuntime, config: PAROAttentionConfig) -> None:
    """Give every self-attention of one denoiser a route, and choose its table at every call."""
    runtime.claim(SCORES, by=NAME)
    masks = ParoMasks(runtime, config)
    runtime.each_run(masks.begin, by=NAME)
    runtime.around(masks, order=100, by=NAME)  # inside of passes that answer calls: tables are for calls that happen


def effect_of_paro(runtime: DenoiserRuntime, config: PAROAttentionConfig) -> Effect:
    """Share of the self-attention scores that were not computed."""
    masks = runtime.around_of(NAME)
    assert isinstance(masks, ParoMasks)
    stats = runtime.stats
    steps = stats.num_steps if stats.calls else DEFAULT_STEPS
    planned = masks.planned(steps)
    if not stats.calls:
        return Effect(what=WHAT, planned_frac=planned)
    return Effect(
        what=WHAT,
        planned_frac=planned,
        actual_frac=masks.actual,
        total=stats.calls * len(masks.layers),
        shortfall=masks.shortfall if planned else None,
    )


def _moved(tokens: Tensor, places: Tensor) -> Tensor:
    """[B, N, H, D], the tokens of each head taken from their places [N, H]."""
    return tokens.gather(1, places[None, :, :, None].expand(tokens.shape))


def _widths(config: PAROAttentionConfig) -> list[int]:
    """The fullest row of each layer in any part of the run: one shape of table for all of them."""
    parts, layers = range(config.num_parts), range(len(config.layers))
    return [max(1, *(int(config.mask(p, layer).sum(-1).amax()) for p in parts)) for layer in layers]


def _device_of(call: Call) -> torch.device:
    given = (*call.args, *call.kwargs.values())
    return next((each.device for each in given if isinstance(each, Tensor)), torch.device("cpu"))


def _obstacles(target: Target, config: PAROAttentionConfig) -> list[str]:
    found = {site.info.id: module for site, module in routable(target)}
    if not found:
        return ["none of its self-attention goes through a processor that hands q, k and v on"]
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
