"""Refits each answer with all later ones as they are, so that it serves the end of the run and not the next step.

The sequential fit brings every answered evaluation as near to the recorded run as it can. What matters is what is left
at the end. A sweep goes through the answers once more: how the last latents follow a change of one of them is measured
by running on from there with a small change along each of a few directions; the change that is best for the end by
these is a small ridge regression; and it is kept if prompts that it was not chosen by gain too. This is the
coordinate descent that ``solvers.md`` proposes for BNS's objective (Shaul et al., arXiv 2403.01329), by differences
and not by gradients, so that the denoiser need not be differentiable nor its activations fit into memory.

Cost: for each answered evaluation :data:`DIRECTIONS` + 1 runs of what is computed after it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dit_accel.calibration.fit_runs import Run, Runner
from dit_accel.calibration.learner import Script
from dit_accel.calibration.regression import products, ridge_toward
from dit_accel.errors import ConfigError

HELD_OUT_EVERY = 4  # so-and-so-manieth prompt, by which a change is accepted: neighbours in a list may be alike
DIRECTIONS = 4  # of an answer's regressors, the largest ones, along which it is moved
NUDGE_FRAC = 0.02  # of an answer's size, by which it is moved to see what follows
SMALLEST = 1e-10  # eigenvalues of regressors, relative to the largest, below which a direction is rounding
RIDGES = (1e-4, 1e-2, 1e-1, 1.0)  # toward no change

Weights = Mapping[int, Mapping[int, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What came of sweeps.

    Attributes:
        run: With the weights that were found.
        accepted: How many changes held-out prompts gained by.
        tried: How many were tried.
    """

    run: Run
    accepted: int
    tried: int


def swept(runner: Runner, fitted: Run, rounds: int, emphasis: Any = None) -> Swept:
    """Go through all answers of a fitted run some times; ends early once a sweep changes nothing.

    Args:
        runner: Of the fit.
        fitted: Its run.
        rounds: Sweeps.
        emphasis: float64 [P]: how much each prompt counts, 1 in the mean; ``None``: all alike.

    Raises:
        ConfigError: There are fewer than two prompts, or filters over channels are fitted as well.
    """
    count = len(fitted.errors)
    if count < 2 or runner.channels:
        raise ConfigError("sweeps take at least two prompts, one of them held out, and no filters over channels")
    every = min(HELD_OUT_EVERY, count)
    held = np.arange(count) % every == every - 1
    run, accepted, tried = fitted, 0, 0
    for _ in range(rounds):
        before = accepted
        for step in sorted(fitted.learner.solved):
            found = _refitted(runner, run, step, fitted.learner.grams[step], held, emphasis)
            tried += 1
            if found is not None:
                run, accepted = found, accepted + 1
        if accepted == before:
            break
    if accepted:  # once more from the beginning, with forecasts of what it computes
        last = Script(weights=run.learner.solved, forecasts=True)
        run = runner.run(last, emphasis=emphasis)
    return Swept(run=run, accepted=accepted, tried=tried)


def _refitted(runner: Runner, run: Run, step: int, gram: Any, held: Any, emphasis: Any) -> Run | None:
    """The run with other weights at one evaluation; ``None``: held-out prompts, or the others, did not gain."""
    names = list(run.learner.solved[step])
    moves = _directions(gram[~held], np.array([run.learner.solved[step][name] for name in names]))
    slopes = []
    for move in moves:
        there = runner.run(run.script(step, _moved(run, step, NUDGE_FRAC * move)), before=run)
        slopes.append((there.off - run.off) / NUDGE_FRAC)
    grams, rights = products(slopes, -run.off)
    share = 1 / np.maximum((run.off.flatten(1).norm(dim=1) ** 2).cpu().numpy(), 1e-30)  # of the mean logarithm
    if emphasis is not None:
        share = share * emphasis
    grams, rights = grams * share[:, None, None], rights * share[:, None]
    found, _ = ridge_toward(grams[~held], rights[~held], np.zeros(len(moves)), RIDGES)
    there = runner.run(run.script(step, _moved(run, step, found @ moves)), before=run)
    gained = [_logs(run, part, emphasis) - _logs(there, part, emphasis) for part in (held, ~held)]
    if not np.isfinite(gained).all() or min(gained) <= 0:
        return None
    return there


def _moved(run: Run, step: int, move: Any) -> Weights:
    row = run.learner.solved[step]
    return {**run.learner.solved, step: {name: row[name] + float(by) for name, by in zip(row, move, strict=True)}}


def _logs(run: Run, part: Any, emphasis: Any) -> float:
    logs = np.log(np.maximum(run.errors.cpu().numpy()[part], 1e-12))
    return float(np.average(logs, weights=None if emphasis is None else emphasis[part]))


def _directions(gram: Any, weights: Any) -> Any:
    """float64 [K, R]: changes of weights that each move the answer by its own size, the largest axes first."""
    whole = gram.mean(0)
    size = np.sqrt(np.maximum(np.diag(whole), 1e-30))
    values, axes = np.linalg.eigh(whole / size[:, None] / size)
    order = [k for k in np.argsort(values)[::-1][:DIRECTIONS] if values[k] > SMALLEST * values.max()]
    answer = np.sqrt(max(float(weights @ whole @ weights), 1e-30))
    return np.stack([axes[:, k] / np.sqrt(values[k]) / size * answer for k in order])
