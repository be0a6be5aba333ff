"""A span of blocks kept as one: what all of them together add to the residual streams (TeaCache, FirstBlockCache).

The position of its first block stands for all of it: STORE there keeps what the span adds, and REUSE answers from that
without running a block. Spans may run over several stacks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dit_accel.errors import UnsupportedModelError
from dit_accel.families.base import BoundSite
from dit_accel.runtime.call import Frame
from dit_accel.runtime.sites import Wrapped
from dit_accel.runtime.trees import Tree
from dit_accel.schedules.lowering import COMPUTE, REUSE, SKIP, STORE, Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Consecutive blocks that are kept as one.

    Attributes:
        positions: Of the blocks' sites, in execution order.
        streams: Names of the residual streams that are kept; the others are handed on as they came.
    """

    positions: tuple[int, ...]
    streams: tuple[str, ...]

    @property
    def first(self) -> int:
        """Position of the block that answers for all."""
        return self.positions[0]

    @property
    def last(self) -> int:
        """Position of the block that ends it."""
        return self.positions[-1]

    def row(self, parents: Sequence[int | None], *, reused: bool) -> Row:
        """The row of a whole denoiser in which the span is computed and kept, or answered from what is kept.

        Args:
            parents: Position of each site's parent.
            reused: Answered.
        """
        actions = [COMPUTE] * len(parents)
        for position, parent in enumerate(parents):
            if position in self.positions:
                actions[position] = SKIP if reused else COMPUTE
            elif parent is not None and actions[parent] in (SKIP, REUSE):
                actions[position] = SKIP
            if position == self.first:
                actions[position] = REUSE if reused else STORE
        return Row(tuple(actions), (), "span reused" if reused else "span computed")


class SpanForward(Wrapped):
    """The wrapper of one block of a span.

    The last block gives the answer, from what entered the first one: what native code adds to a stream between two
    blocks (ControlNet) is part of what the span adds, and would count twice if it were added to the answer.

    Args:
        span: It belongs to.
        site: The block; its streams are handed on when it is skipped.
    """

    def __init__(self, module: nn.Module, frame: Frame, position: int, site: BoundSite, span: Span) -> None:
        super().__init__(module, frame, position, site)
        self.span = span

    def __call__(self, *args: Any, **kwargs: Any) -> Tree:
        action, span, frame = self.action(), self.span, self.frame
        keeps = frame.actions[span.first] == STORE
        answers = action in (REUSE, SKIP)
        if keeps or answers:
            given = self.given(args, kwargs)
            if self.position == span.first:
                frame.entered = given
        if answers:
            if self.position == span.last:
                given = self._answer(given)
            return tuple(given) if len(given) > 1 else given[0]
        output = self.original(*args, **kwargs)
        if keeps:
            self._check(given)
            if self.position == span.last:
                self.keep(span.first, self._change(output))
                frame.entered = []
        return output

    def _answer(self, given: list[torch.Tensor]) -> list[torch.Tensor]:
        changes, entered = self.recall(self.span.first), self.frame.entered
        self.frame.entered = []
        return [x if d is None else e + d for x, e, d in zip(given, entered, changes, strict=True)]

    def _change(self, output: Tree) -> Tree:
        outputs = output if isinstance(output, (tuple, list)) else (output,)
        names = [name for _, name in self.streams]
        return tuple(
            # The last block of SD3 returns None for the text, which nobody reads after it.
            None if out is None or name not in self.span.streams else out - before
            for name, out, before in zip(names, outputs, self.frame.entered, strict=True)
        )

    def _check(self, given: list[torch.Tensor]) -> None:
        for (_, name), now, before in zip(self.streams, given, self.frame.entered, strict=True):
            if name in self.span.streams and now.shape != before.shape:
                raise UnsupportedModelError(
                    f"the stream '{name}' has the shape {tuple(now.shape)} at '{self.site_id}' and "
                    f"{tuple(before.shape)} where the blocks that are kept as one begin, so they are no single "
                    "stack; register a family whose stacks are those of the image's tokens alone"
                )
