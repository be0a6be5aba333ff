"""What a candidate of calls and sites will cost in fidelity, guessed without a run; the judged ones teach it.

The squared error of the last latents is taken for a sum: what the Gram matrix expects of the answered evaluations, and
for each group of sites the squared distance between what is reused and what would have been computed, as plain runs
have it, times the gain of an error at that evaluation. How much each part counts is fitted to the candidates that real
runs have judged, never below nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dit_accel.calibration.choose import Gaps
from dit_accel.calibration.corrections import Moments
from dit_accel.calibration.evolve import surrogate
from dit_accel.calibration.sites_genome import Genome, Groups
from dit_accel.schedules.kept import kept_steps

SWEEPS = 200
TOWARD_ONE = 1e-3  # pull of every part's factor toward the mean one, in judged candidates


@dataclass(slots=True)
class Surrogate:
    """Guesses errors.

    Attributes:
        gaps: Of the recording.
        groups: Of sites.
        as_it_is: By group [T, T]: squared distance of step t's outputs from step j's, relative to t's; at [j, t].
        corrected: The same after the best affine map of each channel.
        factors: What each part counts: the answered evaluations, then the groups in order.
    """

    gaps: Gaps
    groups: Groups
    as_it_is: Mapping[str, Any]
    corrected: Mapping[str, Any]
    factors: Any = field(default_factory=lambda: np.ones(0))

    def parts(self, genome: Genome) -> Any:
        """float64 [1 + groups]: the parts of the squared error, before factors."""
        steps, gains = genome.num_steps, np.asarray(self.gaps.gains) ** 2
        computed = genome.computed
        found = [surrogate(self.gaps, computed)]
        if genome.conditional:  # half of what a whole call would spare
            found[0] = (found[0] + surrogate(self.gaps, tuple(sorted({*computed, *genome.conditional})))) / 2
        for name in self.groups:
            at = genome.rows.get(name, ())
            row = [step in computed and step not in at for step in range(steps)]
            kept = kept_steps(row, 1, genome.answered) if at else ()
            part = 0.0
            for step, nodes in enumerate(kept):
                if nodes is not None:
                    plain, mapped = self.as_it_is[name][nodes[0], step], self.corrected[name][nodes[0], step]
                    part += gains[step] * ((1 - genome.strength) * plain + genome.strength * mapped)
            found.append(part)
        return np.array(found)

    def __call__(self, genome: Genome) -> float:
        """The squared error."""
        parts = self.parts(genome)
        return float(parts @ (self.factors if len(self.factors) else np.ones(len(parts))))

    def learn(self, genomes: Sequence[Genome], errors: Sequence[float]) -> None:
        """Fit the factors to judged candidates, relative errors counting alike."""
        seen = [(self.parts(genome), error) for genome, error in zip(genomes, errors, strict=True) if error > 0]
        if not seen:
            return
        rows = np.array([parts / error for parts, error in seen])
        size = np.maximum(rows.mean(0), 1e-30)
        rows = rows / size
        factors = np.full(rows.shape[1], 1.0 / rows.shape[1])
        pull = TOWARD_ONE * len(rows)
        start = factors.copy()
        for _ in range(SWEEPS):
            for k in range(len(factors)):
                column = rows[:, k]
                left = 1 - rows @ factors + column * factors[k]
                factors[k] = max(0.0, float(column @ left + pull * start[k]) / float(column @ column + pull))
        self.factors = factors / size


def distances(moments: Moments, groups: Groups) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tables of a :class:`Surrogate`, averaged over a group's sites; over all sites where none was recorded."""
    plain: dict[str, Any] = {}
    mapped: dict[str, Any] = {}
    tables = {site: _tables(moments, site) for site in moments.sites}
    everything = list(tables.values()) or [(np.ones((moments.num_steps,) * 2),) * 2]
    for name, sites in groups.items():
        known = [tables[site] for site in sites if site in tables] or everything
        plain[name], mapped[name] = (np.mean([pair[k] for pair in known], axis=0) for k in (0, 1))
    return plain, mapped


def _tables(moments: Moments, site: str) -> tuple[Any, Any]:
    sums, counts, steps = moments.sites[site].numpy(), moments.counts[site], moments.num_steps
    plain, mapped = np.ones((steps, steps)), np.ones((steps, steps))
    for late in range(steps):
        for early in range(max(0, late - moments.horizon), late):
            if not counts[late] or counts[late] != counts[early]:
                continue
            cross = sums[late, 1 + late - early]
            mine, other = sums[late, 1], sums[early, 1]
            whole = max(float(mine.sum()), 1e-30)
            plain[early, late] = max(0.0, float((mine - 2 * cross + other).sum())) / whole
            mean_mine, mean_other = sums[late, 0] / counts[late], sums[early, 0] / counts[late]
            covariance = cross / counts[late] - mean_mine * mean_other
            variance = np.maximum(other / counts[late] - mean_other**2, 1e-30)
            left = mine / counts[late] - mean_mine**2 - covariance**2 / variance
            mapped[early, late] = max(0.0, float(left.sum()) * counts[late]) / whole
    return plain, mapped
