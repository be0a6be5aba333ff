"""Fitted weights, carried to a run of another number of steps.

The calls that are computed keep their places on the way from noise to image, and so do the weights between them: at a
noise level between two that were fitted, on the line between their rows. What a fit knows of a model is where its
outputs go from one computed call to the next, and that is the same on a finer or a coarser grid of the same levels.
``docs/trajectories.md`` has what it is worth beside theory and beside plain runs of fewer steps.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from dit_accel.passes.trajectory.config import LATENTS, TrajectoryConfig

FEWEST = 0.5  # of the steps that a plan is for: with fewer, all that it computes would leave next to nothing to save


def carried(config: TrajectoryConfig, levels: Sequence[float]) -> TrajectoryConfig | None:
    """The plan for a run of other noise levels, another number of them; ``None``: it cannot be carried to it.

    With fewer steps all that the plan computes still is, at less of a speed-up. With more steps as large a share of
    them is computed, so others besides: an answer behind one of these is that output and what the fitted answers say
    has changed since. Flow matching is left to theory there, which is as good on images and better on videos.

    Args:
        config: With weights, and the levels that they were fitted to.
        levels: Of the run.
    """
    if config.weights is None or config.computed is None or config.filters is not None:
        return None
    if not _fall(config.levels) or not _fall(levels) or len(levels) < FEWEST * len(config.levels):
        return None
    if len(levels) > len(config.levels) and config.levels[0] <= 1:  # flow matching: its levels are shares of noise
        return None
    halves = config.conditional or (False,) * len(config.computed)
    nodes = [step for step, each in enumerate(zip(config.computed, halves, strict=True)) if any(each)]
    move = _Move.of(config.levels, nodes, levels)
    if len(move.computed) == len(levels):
        return None
    own, other = move.table(config.weights), config.unconditional
    return replace(
        config,
        computed=tuple(step in move.computed for step in range(len(levels))),
        weights=own,
        unconditional=None if other is None else move.table(other),
        guided_weights=move.tables(config.guided_weights),
        guided_unconditional=move.tables(config.guided_unconditional),
        levels=tuple(levels),
        guard=(),
        guarded=False,
        conditional=(),
        cross=None,
    )


def _fall(levels: Sequence[float]) -> bool:
    """Whether every level is known and below the one before: solvers of second order visit some twice."""
    return bool(levels) and levels[-1] > 0 and all(after < before for before, after in pairwise(levels))


@dataclass(frozen=True, slots=True)
class _Move:
    """From one grid of levels to another.

    Attributes:
        old: Logarithms of the levels that a plan is for.
        nodes: Evaluations that it computes.
        new: Logarithms of the levels of the run.
        placed: Where in the run these are computed, as many of them as there is room for.
        added: What is computed besides.
    """

    old: list[float]
    nodes: list[int]
    new: list[float]
    placed: list[int]
    added: list[int]

    @classmethod
    def of(cls, levels: Sequence[float], nodes: list[int], others: Sequence[float]) -> "_Move":
        steps, scale = len(others), (len(others) - 1) / max(1, len(levels) - 1)
        placed: list[int] = []
        for node in nodes:
            place = max(round(node * scale), placed[-1] + 1 if placed else 0)
            if place < steps:
                placed.append(place)
        count = round(len(nodes) * steps / len(levels))
        added = _added(placed, steps, count)
        return cls([math.log(level) for level in levels], nodes, [math.log(level) for level in others], placed, added)

    @property
    def computed(self) -> frozenset[int]:
        return frozenset((*self.placed, *self.added))

    def tables(self, tables: torch.Tensor | None) -> torch.Tensor | None:
        """:meth:`table` of each."""
        return None if tables is None else torch.stack([self.table(each) for each in tables])

    def table(self, table: torch.Tensor) -> torch.Tensor:
        """Weights [T, T + 2] for the run's [N, N + 2]."""
        rows = torch.stack([self._row(table, step) for step in range(len(self.new))])
        found = rows.clone()
        ends = sorted((*self.computed, len(rows) - 1))
        for node in self.added:
            last = ends[bisect_right(ends, node)] if node < ends[-1] else node
            behind = slice(node + 1, last + 1)
            found[behind] = rows[behind] - rows[node]
            found[behind, node] += 1
        return found

    def _row(self, table: torch.Tensor, step: int) -> torch.Tensor:
        """Weights of an evaluation from what was computed at the plan's own places before it."""
        steps = len(self.new)
        row = torch.zeros(steps + 2, dtype=table.dtype)
        if step == 0:
            return row
        gap = max(place for place, node in enumerate(self.placed) if node < step)
        there = self._there(table, gap, step)
        for node, place in zip(self.nodes[: gap + 1], self.placed, strict=False):
            row[place] = there[node]
        row[LATENTS:] = there[LATENTS:]
        return row

    def _there(self, table: torch.Tensor, gap: int, step: int) -> torch.Tensor:
        """The row of the plan at the place of ``step`` in this gap between computed evaluations."""
        first, following = self.nodes[gap], gap + 1 < len(self.placed)
        last = self.nodes[gap + 1] if following else len(self.old) - 1  # behind the last one that is computed
        end = self.placed[gap + 1] if following else len(self.new) - 1
        if last == first:
            return self._known(table, first, first)
        share = _share(self.new, self.placed[gap], end, step)
        shares = [_share(self.old, first, last, each) for each in range(first, last + 1)]
        low = min(max(bisect_right(shares, share) - 1, 0), len(shares) - 2)
        part = (share - shares[low]) / (shares[low + 1] - shares[low])
        rows = (self._known(table, first, first + low), self._known(table, first, first + low + 1))
        return torch.lerp(*rows, part)

    def _known(self, table: torch.Tensor, first: int, step: int) -> torch.Tensor:
        """A row of the plan; of the gap's first evaluation its own output."""
        if step > first:
            return table[step] if table[step].any() else self._known(table, first, step - 1)
        own = torch.zeros(table.shape[1], dtype=table.dtype)
        own[first] = 1
        return own


def _share(heights: Sequence[float], start: int, end: int, step: int) -> float:
    """How far a step lies on the way from one to another."""
    return (heights[step] - heights[start]) / (heights[end] - heights[start])


def _added(placed: Sequence[int], steps: int, count: int) -> list[int]:
    """What to compute besides so that ``count`` are: by turns in the widest gap, and in the last that is still whole.

    The first is where outputs move unseen for longest; the second keeps the end as dense as it was, where nothing
    damps an error any more.
    """
    found: list[int] = []
    while len(placed) + len(found) < count:
        ends = sorted((*placed, *found, steps))
        gaps = [(start, end) for start, end in pairwise(ends) if end - start > 1]
        if not gaps:
            break
        whole = [gap for gap in gaps if not {*gap} & {*found}]
        widest = len(found) % 2 == 0 or not whole
        start, end = max(gaps, key=lambda gap: (gap[1] - gap[0], gap[0])) if widest else whole[-1]
        found.append(start + (end - start) // 2)
    return found
