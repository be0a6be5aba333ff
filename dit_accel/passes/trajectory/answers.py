"""Which evaluations of a run are answered, and by which weights: fitted ones, carried to this run, or theory's."""

import math
from collections.abc import Sequence

from dit_accel.passes.trajectory.config import LATENTS, NOISE, TrajectoryConfig
from dit_accel.passes.trajectory.history import Weights
from dit_accel.schedules.theory import theory_weights

SAME_LEVEL_FRAC = 1e-3  # noise levels that differ by less are the same


class Answers:
    """The answers of one run.

    Fitted weights are used as they are where the run has the noise levels that they were fitted to. Where the levels
    differ (another size with a shift of its own), what theory says of the difference is added. For another number of
    steps, and for a branch that lacks an output they combine (image-to-image begins late), theory answers alone.

    Args:
        config: The plan.
        num_steps: Evaluations of the run.
        levels: Their noise levels; empty if unknown.
    """

    def __init__(self, config: TrajectoryConfig, num_steps: int, levels: Sequence[float]) -> None:
        self.config = config
        self.computed = config.steps_of(num_steps)
        self.answered = frozenset(range(num_steps)) - frozenset(self.computed)
        self.levels = list(levels) if len(levels) == num_steps else list(range(num_steps))
        self.is_fitted = config.weights is not None and config.num_steps == num_steps
        self.is_moved = self.is_fitted and bool(levels and config.levels) and not _alike(levels, config.levels)
        self._rows: dict[int, dict[int, float]] = {}
        if self.is_fitted:
            self._rows = self._fitted()
        self._theory: dict[tuple[int, tuple[int, ...]], Weights] = {}

    def fitted(self, step: int) -> Weights | None:
        """Fitted weights of an evaluation; of a computed one those of its forecast, if there are any."""
        return self._rows.get(step)

    def by_theory(self, step: int, computed: Sequence[int]) -> Weights:
        """Theory's weights of an evaluation, from the outputs that there are."""
        key = (step, tuple(computed))
        if key not in self._theory:
            self._theory[key] = theory_weights(self.levels, computed, step)
        return self._theory[key]

    def _fitted(self) -> dict[int, dict[int, float]]:
        table = self.config.weights
        assert table is not None
        rows = {}
        for step, row in enumerate(table.tolist()):
            weights = {place: weight for place, weight in enumerate(row[:LATENTS]) if weight}
            weights |= {key: row[key] for key in (LATENTS, NOISE) if row[key]}
            if weights and self.is_moved:
                weights = self._moved(step, weights)
            if weights:
                rows[step] = weights
        return rows

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
