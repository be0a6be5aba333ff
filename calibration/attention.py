"""Finds for each head the order of tokens, and for each part of a run the blocks, that hold the mass of its attention.

Recorded on prompts that nothing is judged by, in a plain run: everything is computed and the pictures are the plain
ones. What is kept is sums over blocks, in all six orders, never the attention itself.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from dit_accel.api import accelerated
from dit_accel.errors import ConfigError, UnsupportedModelError
from dit_accel.kernels.attention import dense
from dit_accel.kernels.pooled_scores import pooled_sums
from dit_accel.passes.attention.bits import pack
from dit_accel.passes.attention.layout import ORDERS, TokenLayout
from dit_accel.passes.attention.paro_config import PAROAttentionConfig
from dit_accel.passes.attention.routing import Route, routable, route
from dit_accel.passes.static_cache import StaticCacheConfig
from dit_accel.runtime.call import Call, Inner
from dit_accel.runtime.denoiser import DenoiserRuntime
from dit_accel.schedules import GeneratorSpec
from dit_accel.session.session import session_of

BY = "calibration"
_EVERYTHING = StaticCacheConfig(schedule=GeneratorSpec("every_n", n=1), invariants=False)

Share = Literal["head", "model"]
"""Who shares a budget of blocks: each head has its own, or all heads of a part of the run have one together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionRecord:
    """What the self-attention of a model does, by blocks.

    Attributes:
        layout: The sequence.
        layers: Ids of the attention sites.
        block: Tokens in a block.
        sums: fp32 [P, L, 6, H, M, M]: mean weight of each block, in each order; all weights of a head sum to 1.
    """

    layout: TokenLayout
    layers: tuple[str, ...]
    block: int
    sums: torch.Tensor


def record_attention(
    pipe: Any, run: Callable[[], object], *, block: int = 64, parts: int = 4, samples: int = 1, scheduler: Any = None
) -> AttentionRecord:
    """Watch a pipeline draw.

    Args:
        pipe: A pipeline, or a bare denoiser. What is applied to it is taken off meanwhile.
        run: Draws with it, at the steps, size and guidance that it will be used with: a few prompts that are not those
            it is judged by.
        block: Tokens in a block.
        parts: Into how many parts of as many steps a run is cut; each has masks of its own.
        samples: How many steps of each part are looked at, spread over it.
        scheduler: The scheduler of a bare denoiser.

    Raises:
        ConfigError: ``run`` drew nothing, at several sizes, or in fewer steps than there are parts.
        UnsupportedModelError: There are two denoisers, or one whose tokens or attention cannot be followed.
    """
    if parts < 1 or samples < 1:
        raise ConfigError(f"'parts' and 'samples' must be at least 1, got {parts} and {samples}")
    with watched_runtime(pipe, scheduler) as runtime:
        recorder = _Recorder(runtime, block, parts, samples)
        run()
    return recorder.record()


@contextmanager
def watched_runtime(pipe: Any, scheduler: Any = None) -> Iterator[DenoiserRuntime]:
    """The runtime of a plain denoiser, to put something around its calls inside of the block.

    Args:
        pipe: A pipeline, or a bare denoiser.
        scheduler: The scheduler of a bare denoiser.

    Raises:
        UnsupportedModelError: There are two.
    """
    # A schedule that computes everything: all that is wanted of it is the clock.
    with accelerated(pipe, _EVERYTHING, scheduler=scheduler):
        session = session_of(pipe)
        assert session is not None
        if len(session.runtimes) != 1:
            raise UnsupportedModelError(f"{len(session.runtimes)} denoisers; masks are found for one")
        yield session.runtimes[0]


def choose_paro(
    record: AttentionRecord,
    *,
    density: float | None = None,
    mass: float | None = None,
    share: Share = "model",
    orders: Sequence[int] = tuple(range(len(ORDERS))),
    dense_steps_frac: float = 0.0,
) -> PAROAttentionConfig:
    """The plan that keeps most of the mass.

    Args:
        record: Of the model.
        density: Share of the blocks to compute; either this or ``mass``.
        mass: Share of each head's weight to keep, in as few blocks as that takes.
        share: Who shares the budget of ``density``.
        orders: Which of the six orders a head may be given.
        dense_steps_frac: See :class:`~dit_accel.passes.attention.rules.DenseRules`.

    Returns:
        A plan whose density is ``density`` up to one block, and somewhat more where every row has its one block or
        text is dense at a small density.

    Raises:
        ConfigError: Impossible targets.
    """
    given = density if density is not None else mass
    if (density is None) == (mass is None) or given is None or not 0 < given <= 1:
        raise ConfigError(f"give a density or a mass in (0, 1], got density={density!r}, mass={mass!r}")
    if not orders or not set(orders) <= set(range(len(ORDERS))):
        raise ConfigError(f"'orders' must be some of 0 to {len(ORDERS) - 1}, got {list(orders)}")
    sums, ranked = record.sums[:, :, list(orders)], ranked_sums(record, orders)
    kept = _kept_by_mass(sums, ranked, given) if mass is not None else _kept_by_density(ranked, given)
    # Fewer blocks for the same mass, or more mass in as many blocks: either way, mass for each block that is computed.
    held, cost = (sums * kept).sum((-1, -2)).mean(0), kept.double().mean((-1, -2, 0))  # [L, O, H]
    best = (-cost if mass is not None else held).argmax(1)  # [L, H]
    chosen = best[None, :, None, :, None, None].expand(len(sums), -1, 1, -1, *sums.shape[-2:])
    if density is not None and share == "model":
        kept = kept_together(ranked.gather(2, chosen).squeeze(2), density)
    else:
        kept = kept.gather(2, chosen).squeeze(2)
    return paro_of(record, torch.tensor(orders)[best], kept, dense_steps_frac=dense_steps_frac)


def ranked_sums(record: AttentionRecord, orders: Sequence[int]) -> torch.Tensor:
    """The recorded sums in some orders [P, L, O, H, M, M], raised above all others where always computed."""
    sums = record.sums[:, :, list(orders)]
    return sums + 2.0 * _forced(sums, record)


def best_orders(record: AttentionRecord, orders: Sequence[int], density: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Each head's order that holds most at a density: int64 [L, H], and its place [P, L, 1, H, M, M]."""
    sums, ranked = record.sums[:, :, list(orders)], ranked_sums(record, orders)
    best = (sums * _kept_by_density(ranked, density)).sum((-1, -2)).mean(0).argmax(1)
    places = best[None, :, None, :, None, None].expand(len(sums), -1, 1, -1, *sums.shape[-2:])
    return torch.tensor(orders)[best], places


def paro_of(
    record: AttentionRecord, orders: torch.Tensor, kept: torch.Tensor, *, dense_steps_frac: float = 0.0
) -> PAROAttentionConfig:
    """A plan of chosen orders [L, H] and blocks bool [P, L, H, M, M]."""
    return PAROAttentionConfig(
        grid=record.layout.size,
        text=record.layout.text,
        layers=record.layers,
        orders=orders.to(torch.uint8),
        masks=pack(kept.flatten(-2)),
        block=record.block,
        dense_steps_frac=dense_steps_frac,
    )


def _forced(sums: torch.Tensor, record: AttentionRecord) -> torch.Tensor:
    """0 or 1: the largest block of every row, so that no query is left without a key, and all text."""
    largest = torch.zeros_like(sums, dtype=torch.bool).scatter_(-1, sums.argmax(-1, keepdim=True), True)
    return record.layout.with_text(largest, record.block).to(sums.dtype)


def _kept_by_density(ranked: torch.Tensor, density: float) -> torch.Tensor:
    """The highest blocks of each head."""
    flat = ranked.flatten(-2)
    count = max(1, round(density * flat.shape[-1]))
    kept = torch.zeros_like(flat, dtype=torch.bool).scatter_(-1, flat.topk(count).indices, True)
    return (kept | (flat >= 2)).view(ranked.shape)


def kept_together(ranked: torch.Tensor, density: float) -> torch.Tensor:
    """The highest blocks of all heads of a part [P, L, H, M, M]."""
    flat = ranked.flatten(1)
    count = max(1, round(density * flat.shape[-1]))
    kept = torch.zeros_like(flat, dtype=torch.bool).scatter_(-1, flat.topk(count).indices, True)
    return (kept | (flat >= 2)).view(ranked.shape)


def _kept_by_mass(sums: torch.Tensor, ranked: torch.Tensor, mass: float) -> torch.Tensor:
    """As few of the highest blocks of each head as hold the mass."""
    places = ranked.flatten(-2).argsort(-1, descending=True)
    held = sums.flatten(-2).gather(-1, places).cumsum(-1)
    before = torch.nn.functional.pad(held, (1, 0))[..., :-1]
    kept = torch.zeros_like(held, dtype=torch.bool).scatter_(-1, places, before < mass)
    return (kept | (ranked.flatten(-2) >= 2)).view(ranked.shape)


class _Recorder:
    """Stands around the calls of a denoiser, and in the place of its attention at the steps that are looked at."""

    def __init__(self, runtime: DenoiserRuntime, block: int, parts: int, samples: int) -> None:
        self.block, self.parts, self.samples = block, parts, samples
        self.name = runtime.name
        self.layout: TokenLayout | None = None
        self.routes: dict[str, Route] = {
            site.info.id: route(module, runtime.ledger, by=BY) for site, module in routable(runtime.target)
        }
        if not self.routes:
            raise UnsupportedModelError(f"no self-attention of '{runtime.name}' hands its q, k and v on")
        self.sums: dict[tuple[int, str], torch.Tensor] = {}
        self.counts: dict[tuple[int, str], int] = {}
        runtime.around(self, by=BY)

    def __call__(self, call: Call, inner: Inner) -> Any:
        layout = None if call.run.grid is None else TokenLayout.of(call.run.grid)
        if layout is None:
            raise UnsupportedModelError(f"the frames, rows and columns of the tokens of '{self.name}' cannot be told")
        if self.layout not in (None, layout):
            raise ConfigError(f"record one size at a time: {self.layout.words} and {layout.words} were drawn")  # type: ignore[union-attr]
        self.layout = layout
        part = sampled_steps(call.run.num_steps, self.parts, self.samples).get(call.step)
        for layer, each in self.routes.items():
            each.length = layout.length
            each.attend = None if part is None else _Watch(self, part, layer)
        try:
            return inner(call)
        finally:
            for each in self.routes.values():
                each.attend = None

    def add(self, part: int, layer: str, q: torch.Tensor, k: torch.Tensor, scale: float | None) -> None:
        assert self.layout is not None
        found = pooled_sums(q, k, self.layout.permutations, scale=scale, block=self.block).sum(1).cpu()
        self.sums[part, layer] = self.sums.get((part, layer), 0.0) + found
        self.counts[part, layer] = self.counts.get((part, layer), 0) + q.shape[0]

    def record(self) -> AttentionRecord:
        if self.layout is None:
            raise ConfigError("nothing was drawn, so there is no attention to choose from")
        layers = tuple(layer for layer in self.routes if (0, layer) in self.sums)
        missing = [part for part in range(self.parts) if any((part, layer) not in self.sums for layer in layers)]
        if missing or not layers:
            raise ConfigError(f"no step fell into parts {missing} of {self.parts}: fewer parts, or more steps")
        tokens = self.layout.length
        if not all(torch.isfinite(sums).all() for sums in self.sums.values()):
            raise ConfigError("the model's attention is not finite (NaN or infinity): there is nothing to choose from")
        means = [
            [self.sums[p, layer] / (self.counts[p, layer] * tokens) for layer in layers] for p in range(self.parts)
        ]
        return AttentionRecord(
            layout=self.layout,
            layers=layers,
            block=self.block,
            sums=torch.stack([torch.stack(each) for each in means]),
        )


def sampled_steps(num_steps: int, parts: int, samples: int) -> dict[int, int]:
    """The steps that are looked at, each with its part: so many of each part, spread over it."""
    found: dict[int, int] = {}
    for part in range(parts):
        steps = [step for step in range(num_steps) if min(parts - 1, step * parts // num_steps) == part]
        for sample in range(samples if steps else 0):
            found[steps[min(len(steps) - 1, int((sample + 0.5) * len(steps) / samples))]] = part
    return found


@dataclass(frozen=True, slots=True)
class _Watch:
    recorder: _Recorder
    part: int
    layer: str

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float | None) -> torch.Tensor:
        self.recorder.add(self.part, self.layer, q, k, scale)
        return dense(q, k, v, scale=scale)
