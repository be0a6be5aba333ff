"""Which evaluations to compute: a beam search over the Gram matrix of one recorded run, without a model call.

The cost of leaving out the evaluations between computed steps a and b is what is left of the latents' way from a + 1
to b when it is regressed on the latents at a and the last computed outputs, times the measured gain of an error there;
the squares add up. The state of the search is the whole set of steps so far, so that the regressors are the true ones
(DPCache, arXiv 2602.22654, keeps two of them; OSS, arXiv 2503.21774, none).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dit_accel.calibration.recording import Recording

REGRESSORS = 3  # computed outputs that a gap is regressed on
RIDGE_FRAC = 1e-7
WIDTH = 8  # sets kept for each last step
POWER = 2.0  # of the errors that add up


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A set of evaluations to compute.

    Attributes:
        computed: The evaluations, in order.
        cost: What the surrogate expects: comparable between choices of one recording.
    """

    computed: tuple[int, ...]
    cost: float


def gram_of(recording: Recording) -> Any:
    """float64 [2 T + 1, 2 T + 1]: inner products of all latents and then all outputs, mean over prompts.

    One row at a time, so that nothing is stacked.
    """
    items = [*recording.latents, *recording.outputs]
    gram = np.zeros((len(items), len(items)))
    flat = [item.flatten(1) for item in items]
    for i, one in enumerate(flat):
        wide = one.double()
        for j in range(i + 1):
            gram[i, j] = gram[j, i] = float((wide * flat[j]).sum()) / len(one)
    return gram


class Gaps:
    """What each gap costs.

    Args:
        gram: Of :func:`gram_of`, for T evaluations.
        gains: T numbers.
        boundaries: Evaluations that must be computed because another denoiser takes over.
    """

    def __init__(self, gram: Any, gains: Sequence[float], boundaries: Collection[int] = ()) -> None:
        self.gram = gram
        self.gains = gains
        self.steps = len(gains)
        self.boundaries = frozenset(boundaries)
        self._costs: dict[tuple[int, ...], Any] = {}

    def costs(self, computed: tuple[int, ...]) -> Any:
        """Cost, to the power, of the next computed step being b, for b from the last one + 1 to T; float64 [T + 1].

        Those up to the last one, and those beyond a boundary, are infinite.
        """
        start = max((b for b in self.boundaries if b <= computed[-1]), default=0)
        key = tuple(step for step in computed[-REGRESSORS:] if step >= start)
        if key not in self._costs:
            self._costs[key] = self._of(key)
        return self._costs[key]

    def _of(self, key: tuple[int, ...]) -> Any:
        last, gram, steps = key[-1], self.gram, self.steps
        found = np.full(steps + 1, np.inf)
        found[last + 1] = 0.0
        furthest = min((b for b in self.boundaries if b > last), default=steps)
        ends = np.arange(last + 2, furthest + 1)
        if not len(ends):
            return found
        using = np.array([last, *(steps + 1 + step for step in key)])
        inner = gram[np.ix_(using, using)]
        size = np.sqrt(np.maximum(np.diag(inner), 1e-30))
        inner = inner / size[:, None] / size + RIDGE_FRAC * np.eye(len(using))
        begin = last + 1
        right = (gram[np.ix_(using, ends)] - gram[using, begin][:, None]) / size[:, None]
        whole = gram[ends, ends] + gram[begin, begin] - 2 * gram[ends, begin]
        left = np.maximum(whole - (right * np.linalg.solve(inner, right)).sum(0), 0.0)
        found[ends] = (np.asarray(self.gains)[ends - 1] * np.sqrt(left)) ** POWER
        return found


def choose_steps(gaps: Gaps, num_computed: int, *, count: int = 4, width: int = WIDTH) -> list[Choice]:
    """The best sets of ``num_computed`` evaluations, best first.

    Args:
        gaps: What they cost.
        num_computed: How many are computed; the first is, and every boundary.
        count: How many sets to return.
        width: Of the beam, for each last step.
    """
    steps = gaps.steps
    beam: list[tuple[float, tuple[int, ...]]] = [(0.0, (0,))]
    for k in range(1, num_computed):
        by_last: dict[int, list[tuple[float, tuple[int, ...]]]] = {}
        for cost, computed in beam:
            costs = gaps.costs(computed)
            for step in range(computed[-1] + 1, steps - (num_computed - k - 1)):
                if np.isfinite(costs[step]):
                    by_last.setdefault(step, []).append((cost + float(costs[step]), (*computed, step)))
        beam = [entry for entries in by_last.values() for entry in sorted(entries)[:width]]
    ends = [(cost + float(gaps.costs(computed)[steps]), computed) for cost, computed in beam]
    found = sorted(entry for entry in ends if np.isfinite(entry[0]))[:count]
    return [Choice(computed=computed, cost=cost) for cost, computed in found]
