"""Records what each block of self-attention holds, in all six orders of tokens, in a plain run.

Everything is computed and the pictures are the plain ones. What is kept is sums over blocks, never the attention
itself: 24 P L H M^2 bytes for P parts, L layers, H heads and M blocks.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from dit_accel.api import accelerated
from dit_accel.calibration.attention_published import OrderScores, order_scores
from dit_accel.errors import ConfigError, UnsupportedModelError
from dit_accel.kernels.attention import dense
from dit_accel.kernels.pooled_scores import pooled_sums
from dit_accel.passes.attention.layout import TokenLayout
from dit_accel.passes.attention.paro_config import part_of
from dit_accel.passes.attention.routing import Route, routable, route
from dit_accel.passes.static_cache import StaticCacheConfig
from dit_accel.runtime.call import Call, Inner
from dit_accel.runtime.denoiser import DenoiserRuntime
from dit_accel.schedules import GeneratorSpec
from dit_accel.session.session import session_of

BY = "calibration"
_EVERYTHING = StaticCacheConfig(schedule=GeneratorSpec("every_n", n=1), invariants=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionRecord:
    """What the self-attention of a model does, by blocks.

    Attributes:
        layout: The sequence.
        layers: Ids of the attention sites.
        block: Tokens in a block.
        sums: fp32 [P, L, 6, H, M, M]: mean weight of each block, in each order; all weights of a head sum to 1.
        scores: Of each layer what PAROAttention's published score is made of; empty: not asked for.
    """

    layout: TokenLayout
    layers: tuple[str, ...]
    block: int
    sums: torch.Tensor
    scores: tuple[OrderScores, ...] = ()


def record_attention(
    pipe: Any,
    run: Callable[[], object],
    *,
    block: int = 64,
    parts: int = 4,
    samples: int = 1,
    scores: bool = False,
    scheduler: Any = None,
) -> AttentionRecord:
    """Watch a pipeline draw.

    Args:
        pipe: A pipeline, or a bare denoiser. What is applied to it is taken off meanwhile.
        run: Draws with it, at the steps, size and guidance that it will be used with: a few prompts that are not those
            it is judged by.
        block: Tokens in a block.
        parts: Into how many parts of as many steps a run is cut; each has masks of its own.
        samples: How many steps of each part are looked at, spread over it.
        scores: Also what the published score of orders is made of, which takes six passes over the weights instead of
            one; see :func:`~dit_accel.calibration.attention_published.published_orders`.
        scheduler: The scheduler of a bare denoiser.

    Raises:
        ConfigError: ``run`` drew nothing, at several sizes, or in fewer steps than there are parts.
        UnsupportedModelError: There are two denoisers, or one whose tokens or attention cannot be followed.
    """
    if parts < 1 or samples < 1:
        raise ConfigError(f"'parts' and 'samples' must be at least 1, got {parts} and {samples}")
    with watched_runtime(pipe, scheduler) as runtime:
        recorder = _Recorder(runtime, block, parts, samples, scores)
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


class _Recorder:
    """Stands around the calls of a denoiser, and in the place of its attention at the steps that are looked at."""

    def __init__(self, runtime: DenoiserRuntime, block: int, parts: int, samples: int, scored: bool) -> None:
        self.block, self.parts, self.samples, self.scored = block, parts, samples, scored
        self.name = runtime.name
        self.layout: TokenLayout | None = None
        self.routes: dict[str, Route] = {
            site.info.id: route(module, runtime.ledger, by=BY) for site, module in routable(runtime.target)
        }
        if not self.routes:
            raise UnsupportedModelError(f"no self-attention of '{runtime.name}' hands its q, k and v on")
        self.sums: dict[tuple[int, str], torch.Tensor] = {}
        self.counts: dict[tuple[int, str], int] = {}
        self.scores: dict[str, list[OrderScores]] = {}
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
        if self.scored:
            scores = order_scores(q, k, self.layout.permutations, scale=scale, block=self.block)
            self.scores.setdefault(layer, []).append(scores)

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
            scores=tuple(OrderScores.mean(self.scores[layer]) for layer in layers) if self.scored else (),
        )


def sampled_steps(num_steps: int, parts: int, samples: int) -> dict[int, int]:
    """The steps that are looked at, each with its part: so many of each part, spread over it."""
    found: dict[int, int] = {}
    for part in range(parts):
        steps = [step for step in range(num_steps) if part_of(step, num_steps, parts) == part]
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
