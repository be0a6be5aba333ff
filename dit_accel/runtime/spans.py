"""A span of blocks kept as one: what all of them together add to the residual streams (TeaCache, FirstBlockCache).

The first block of a span answers for all of it: where its action is REUSE it adds what the span added when it was last
computed, and the others, which are skipped, hand their streams on. Spans may run over several stacks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

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

    Args:
        span: It belongs to.
        site: The block; its streams are handed on when it is skipped.
    """

    def __init__(self, module: nn.Module, frame: Frame, position: int, site: BoundSite, span: Span) -> None:
        super().__init__(module, frame, position, site)
        self.span = span

    def __call__(self, *args: Any, **kwargs: Any) -> Tree:
        action = self.action()
        if action in (REUSE, SKIP):
            given = self.given(args, kwargs)
            changes = self.recall(self.position) if action == REUSE else (None,) * len(given)
            outputs = tuple(x if d is None else x + d for x, d in zip(given, changes, strict=True))
            return outputs if len(outputs) > 1 else outputs[0]
        if self.position == self.span.first:
            self.frame.entered = self.given(args, kwargs)
        output = self.original(*args, **kwargs)
        if self.position == self.span.last and self.frame.actions[self.span.first] == STORE:
            self.keep(self.span.first, self._change(output))
        return output

    def _change(self, output: Tree) -> Tree:
        outputs = output if isinstance(output, (tuple, list)) else (output,)
        names = [name for _, name in self.streams]
        return tuple(
            None if out is None or name not in self.span.streams else out - before
            for name, out, before in zip(names, outputs, self.frame.entered, strict=True)
        )
