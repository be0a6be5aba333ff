"""Fits a trajectory plan: the answers of all evaluations but the computed ones, in one accelerated run.

How is told in :mod:`.learner`; the options in :mod:`.branches`, :mod:`.regression` (filters), :mod:`.emphasis`,
:mod:`.sweeps` and :mod:`.polish`.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dit_accel.calibration.calm import check_gain
from dit_accel.calibration.emphasis import ROUNDS, emphasis_of, powers
from dit_accel.calibration.fit_runs import Runner, errors_of
from dit_accel.calibration.polish import Rows, Sampler, polished
from dit_accel.calibration.recording import Draw, Recording, listening
from dit_accel.calibration.sweeps import swept
from dit_accel.errors import ConfigError
from dit_accel.passes.trajectory.apply import TrajectoryConfig
from dit_accel.plan.config import PassConfig


@dataclass(slots=True, kw_only=True)
class Fitted:
    """A fitted plan, and how its own run went.

    Attributes:
        config: The plan.
        latents: The last ones, [B, ...].
        pictures: What it drew.
        errors: Per prompt, the distance of its last latents from the recorded ones, relative to the recorded ones.
    """

    config: TrajectoryConfig
    latents: torch.Tensor
    pictures: torch.Tensor
    errors: torch.Tensor


def fit(
    pipe: Any,
    draw: Draw,
    reference: Recording,
    computed: Collection[int],
    first: int,
    last: int,
    *,
    branches: bool = False,
    conditional: Collection[int] = (),
    channels: bool = False,
    tail: float = 0.0,
    sweeps: int = 0,
    polish: int = 0,
    beneath: Sequence[PassConfig] = (),
    most_gain: float = math.inf,
) -> Fitted:
    """Fit the answers of all evaluations but the computed ones, in one run over prompts ``first`` to ``last - 1``.

    Args:
        pipe: The pipeline.
        draw: Draws prompts.
        reference: Of exactly these prompts.
        computed: Evaluations to compute; the first of each denoiser is among them, whether named or not.
        first: Of the prompts.
        last: One past the last prompt.
        branches: Fit weights of its own to each guidance branch; see :mod:`.branches`.
        conditional: Of the other evaluations those of which the conditional guidance branch alone is computed; takes
            ``branches``.
        channels: Fit a matrix to each answer as well, by which the channels of the last computed output are mixed.
        tail: How much more difficult prompts count: their errors are made small to the power 2 + this, at the cost of
            two more fits; see :mod:`.emphasis`.
        sweeps: How often all answers are refitted for the end of the run, with the later ones as they are; see
            :mod:`.sweeps`.
        polish: Rounds of gradient descent on all weights together afterwards; see :mod:`.polish`.
        beneath: What is applied together with the trajectory, so that answers are fitted to outputs as they will be.
        most_gain: How much of the rounding noise of outputs answers may take over; see :mod:`.calm`.

    Raises:
        UnsupportedModelError: The scheduler's step is not linear in the output (thresholding, clipping), or guidance
            is not linear in branches that can be told apart.
        ConfigError: ``branches`` and ``polish`` together, ``conditional`` without ``branches``, ``sweeps`` of fewer
            than two prompts or with ``channels``, a ``tail`` below 0, a bound on the gain below 1 or together with
            ``polish`` or ``sweeps``, or ``polish`` with something beneath.
    """
    if branches and polish:
        raise ConfigError("weights for each guidance branch cannot be polished: ask for 'branches' or 'polish'")
    if (polish and beneath) or ((polish or sweeps) and most_gain < math.inf):
        raise ConfigError(
            "'polish' knows nothing of what lies beneath, nor do 'polish' and 'sweeps' of a bound on the gain"
        )
    check_gain(most_gain)
    if conditional and not branches:
        raise ConfigError("'conditional' evaluations take weights for each guidance branch: ask for 'branches' too")
    if not 0 <= tail < float("inf"):
        raise ConfigError(f"'tail' is a power to add and must be a number from 0, got {tail!r}")
    chosen = frozenset(computed) | first_of_each(reference.denoisers)
    runner = Runner(
        pipe=pipe,
        draw=draw,
        reference=reference,
        computed=chosen,
        first=first,
        last=last,
        branches=branches,
        conditional=frozenset(conditional) - chosen,
        channels=channels,
        most_gain=most_gain,
        under=(*beneath, TrajectoryConfig(speedup=1.0)),
    )
    run = seen = runner.run()
    emphasis = weighted = None
    for _ in range(ROUNDS if tail else 0):
        weighted = emphasis_of(seen.errors.cpu(), tail, weighted)
        seen = runner.run(emphasis=weighted)
        if powers(seen.errors.cpu(), tail) < powers(run.errors.cpu(), tail):
            run, emphasis = seen, weighted
    if sweeps:
        run = swept(runner, run, sweeps, emphasis).run
    config, ended, pictures = run.learner.config(), run.learner.latents, run.pictures
    if polish:
        config = polished(pipe, draw, reference, config, first, last, polish)
        sampler = Sampler(Rows(config))
        with listening(pipe, sampler):
            pictures = draw(first, last)
        ended = sampler.latents
    return Fitted(config=config, latents=ended, pictures=pictures, errors=errors_of(ended, reference.latents[-1]))


def first_of_each(denoisers: Sequence[str]) -> frozenset[int]:
    """The first evaluation of every denoiser: no answer reaches over the boundary between two."""
    return frozenset(denoisers.index(name) for name in set(denoisers))
