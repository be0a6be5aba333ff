"""Which evaluations of a run are answered, and by which weights: fitted ones, carried to this run, or theory's."""

import math
from collections.abc import Sequence

import torch

from dit_accel.passes.trajectory.carry import carried
from dit_accel.passes.trajectory.config import TrajectoryConfig, rows_of
from dit_accel.passes.trajectory.halves import split
from dit_accel.passes.trajectory.history import Filter, Weights
from dit_accel.schedules.theory import theory_weights

SAME_LEVEL_FRAC = 1e-3  # noise levels that differ by less are the same


class Answers:
    """The answers of one run.

    Fitted weights are used as they are where the run has the noise levels that they were fitted to. Where the levels
    differ (another size with a shift of its own), what theory says of the difference is added. For another number of
    steps they are carried to its levels (:mod:`.carry`). Where that cannot be, and for a branch that lacks an output
    they combine (image-to-image begins late), theory answers alone.

    Args:
        config: The plan.
        num_steps: Evaluations of the run.
        levels: Their noise levels; empty if unknown.
        scale: Guidance scale of the run; ``None``: it cannot be told.

    Attributes:
        computed: Evaluations that are computed whole.
        conditional: Those of which the conditional branch alone is.
        answered: All others.
        last: The last evaluation of which anything is answered; -1: none.
        is_carried: Whether the weights were fitted for another number of steps.
    """

    def __init__(
        self, config: TrajectoryConfig, num_steps: int, levels: Sequence[float], scale: float | None = None
    ) -> None:
        other = carried(config, levels) if config.num_steps not in (None, num_steps) and levels else None
        self.is_carried, self.config = other is not None, other or config
        self.scale, config = scale, self.config
        self.computed = config.steps_of(num_steps)
        self.levels = list(levels) if len(levels) == num_steps else list(range(num_steps))
        self.is_fitted = config.weights is not None and config.num_steps == num_steps
        self.is_moved = self.is_fitted and bool(levels and config.levels) and not _alike(levels, config.levels)
        half = frozenset(step for step, alone in enumerate(config.conditional) if alone)
        self.conditional = half if self.is_fitted and not self.is_moved else frozenset[int]()
        if self.is_moved:  # nothing is known of half calls there
            self.computed = tuple(sorted({*self.computed, *half}))
        self.answered = frozenset(range(num_steps)) - frozenset(self.computed) - self.conditional
        self.last = max(self.answered | self.conditional, default=-1)
        self._rows = self._fitted(config.weights_at(scale))
        self._others = self._rows if config.unconditional is None else self._fitted(config.unconditional_at(scale))
        self._theory: dict[tuple[int, tuple[int, ...]], Weights] = {}

    def fitted(self, step: int) -> Weights | None:
        """Fitted weights of an evaluation; of a computed one those of its forecast, if there are any."""
        return self._rows.get(step)

    def of_unconditional(self, step: int) -> Weights | None:
        """:meth:`fitted`, of the unconditional guidance branch."""
        return self._others.get(step)

    def cross(self, step: int) -> tuple[Weights, Weights]:
        """Weights of the unconditional branch where the other one alone is computed; see :func:`.halves.split`."""
        assert self.config.cross is not None
        return split(self.config.cross[step].tolist())

    def filter(self, step: int) -> Filter | None:
        """By which matrix the channels of which output are mixed into a fitted answer, if they are."""
        if self.config.filters is None or not self.is_fitted or step not in self.answered:
            return None
        matrix = self.config.filters[step]
        return (max(node for node in self.computed if node < step), matrix) if matrix.any() else None

    def by_theory(self, step: int, computed: Sequence[int]) -> Weights:
        """Theory's weights of an evaluation, from the outputs that there are."""
        key = (step, tuple(computed))
        if key not in self._theory:
            self._theory[key] = theory_weights(self.levels, computed, step)
        return self._theory[key]

    def _fitted(self, table: torch.Tensor | None) -> dict[int, dict[int, float]]:
        if table is None or not self.is_fitted:
            return {}
        rows = rows_of(table)
        return {step: self._moved(step, row) for step, row in rows.items()} if self.is_moved else rows

    def _moved(self, step: int, weights: dict[int, float]) -> dict[int, float]:
        earlier = [node for node in self.computed if node < step]
        here = theory_weights(self.levels, earlier, step)
        there = theory_weights(self.config.levels, earlier, step)
        for node, weight in here.items():
            weights[node] = weights.get(node, 0.0) + weight
        for node, weight in there.items():
            weights[node] = weights.get(node, 0.0) - weight
        return weights


def _alike(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(math.isclose(a, b, rel_tol=SAME_LEVEL_FRAC, abs_tol=1e-6) for a, b in zip(one, other, strict=True))
