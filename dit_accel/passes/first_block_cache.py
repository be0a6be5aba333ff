"""FirstBlockCache: the change of what the first block adds decides whether the other blocks are skipped.

The first block always runs. While what it adds to the image's tokens has changed, in relative L1 distance, by no more
than the threshold since the others were last computed, what those added then is added again, to every stream.
Source: ParaAttention (Cheng), after TeaCache; bit-equal to ``FirstBlockCacheConfig`` of diffusers.

Departures: a change that is no number counts as a large one; what native code adds between blocks (ControlNet) is
part of what the blocks add, and not added twice.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from dit_accel.families.base import BoundSite, submodule
from dit_accel.families.targets import Target
from dit_accel.passes.base import Pass, register_pass
from dit_accel.passes.thresholds import (
    STREAM,
    BranchState,
    ThresholdRows,
    block_positions,
    check_threshold,
    effect_of_thresholds,
    no_stack,
    relative_change,
)
from dit_accel.plan.config import PassConfig
from dit_accel.runtime.call import Call
from dit_accel.runtime.denoiser import DenoiserRuntime
from dit_accel.runtime.patch import Patch
from dit_accel.runtime.sockets import DECIDES
from dit_accel.runtime.spans import Span
from dit_accel.runtime.trees import Tree
from dit_accel.schedules.lowering import Row

NAME = "first_block_cache"
UNCOMPILED = (
    "decides in the middle of each call, by a number that the device has to give out: TeaCache can be compiled"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstBlockCacheConfig(PassConfig):
    """Skip all blocks but the first while what that one adds changes by no more than a threshold.

    Args:
        threshold: Of the relative change. 0.05 is the default of diffusers; 0 skips only what does not change at all.

    Raises:
        ConfigError: The threshold is no number, or negative.
    """

    type_name: ClassVar[str] = NAME

    threshold: float = 0.05

    def __post_init__(self) -> None:
        check_threshold(NAME, self.threshold)


@dataclass(slots=True, kw_only=True)
class FirstBlockState(BranchState):
    """What a trajectory of one guidance branch remembers.

    Attributes:
        added: What the first block added when the others were last computed.
    """

    added: torch.Tensor | None = None


class FirstBlockRows(ThresholdRows[FirstBlockState]):
    """Lets every call begin as one that computes; the first block then changes its mind."""

    state = FirstBlockState
    measured = "the change of what the first block adds"

    def decide(self, call: Call, state: FirstBlockState) -> Row:
        """All blocks are computed, unless the first says otherwise."""
        state.call = call
        return self.computed

    @torch.compiler.disable
    def settle(self, state: FirstBlockState, added: torch.Tensor) -> None:
        """The first block has run: skip the others, or remember what it added."""
        call, state.call = state.call, None
        assert call is not None
        if state.added is not None:
            change = relative_change(state.added, added)
            if change <= self.threshold and self.skip(call):
                return
            self.note(change)
        state.added = added


class FirstBlock(Patch[nn.Module]):
    """The first block's ``forward``, which decides about the others.

    Args:
        block: The first one.
        site: What is known of it.
        rows: What there is to choose from.
    """

    def __init__(self, block: nn.Module, site: BoundSite, rows: FirstBlockRows) -> None:
        super().__init__(block, "forward")
        self.rows = rows
        self.place = [name for _, name in site.streams].index(STREAM)
        self.argument = site.streams[self.place]

    def __call__(self, *args: Any, **kwargs: Any) -> Tree:
        output = self.original(*args, **kwargs)
        state = self.rows.unsettled()
        if state is not None:
            at, name = self.argument
            given = args[at] if at < len(args) else kwargs[name]
            made = output[self.place] if isinstance(output, tuple | list) else output
            self.rows.settle(state, made - given)
        return output


def apply_first_block_cache(runtime: DenoiserRuntime, config: FirstBlockCacheConfig) -> None:
    """Keep all blocks of one denoiser but the first as one, and let the first decide about them."""
    first, *others = block_positions(runtime.target.layout)
    site = runtime.target.layout.sites[first]
    block = submodule(runtime.target.denoiser, site.path)
    assert block is not None
    span = Span(positions=tuple(others), streams=tuple(name for _, name in site.streams))
    rows = FirstBlockRows(runtime, span, config.threshold)
    runtime.decide(rows, by=NAME)
    runtime.stay_eager(UNCOMPILED, by=NAME)
    runtime.span(span, by=NAME)
    runtime.each_run(rows.forget, by=NAME)
    runtime.ensure_wrapped(rows.all_rows)
    runtime.ledger.set(block, "forward", FirstBlock(block, site, rows), by=NAME)


def _obstacles(target: Target, config: FirstBlockCacheConfig) -> list[str]:
    return no_stack(target, apart=1)


register_pass(
    Pass(
        config=FirstBlockCacheConfig,
        summary="skips all blocks but the first while what the first one adds changes little",
        phase="rows",
        claims=frozenset((DECIDES,)),
        conflicts={"compile": f"it {UNCOMPILED}"},
        obstacles=_obstacles,
        example=FirstBlockCacheConfig,
        apply=apply_first_block_cache,
        effect=effect_of_thresholds,
    )
)
