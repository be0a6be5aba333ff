"""Answering a denoiser evaluation by theory alone: which steps to compute, and the weights of earlier outputs.

No run of the model is needed, so nothing is known of the error. Outputs move along a curve of which the last two
computed ones give the slope. Multistep methods take a line or more of it (DEIS, Zhang & Chen, arXiv 2204.13902;
DPM-Solver++, Lu et al., arXiv 2211.01095), since a solver's steps are short. Answered gaps are not, and neighbouring
outputs differ by more than the trend: half of the slope is taken, and less the further it is carried on.

The few constants were chosen on search prompts of our four models and are the same for every model;
``docs/trajectories.md`` has what came out on held-out prompts, and what was tried.
"""

from collections.abc import Sequence
from math import pi, sin

TIGHT = 1e-9  # nodes that are closer than this, as a share of the range, are the same point
ENDS = 0.5  # how much closer than evenly the first and the last computed steps follow each other
LATER = 0.5  # how much denser the end is than the beginning where hardly any step is computed; from half of them on, 0


def theory_weights(levels: Sequence[float], computed: Sequence[int], step: int) -> dict[int, float]:
    """By which weights the outputs of computed steps answer ``step``.

    The last output, and r / (2 + r) times what it differs by from the one before, where a line would have r: the
    distance in noise level from the last output, by that between the two. Never more than the whole difference.

    Args:
        levels: Noise level of every step (sigma, or sigma / alpha); schedulers of second order repeat values.
        computed: Steps whose outputs there are, in order; at least one, all before ``step``.
        step: The one to answer.

    Returns:
        Weights by step; they add up to 1.
    """
    last = computed[-1]
    tight = TIGHT * (max(levels) - min(levels))
    before = next((node for node in reversed(computed) if abs(levels[node] - levels[last]) > tight), None)
    if before is None:
        return {last: 1.0}
    distance = (levels[step] - levels[last]) / (levels[last] - levels[before])
    slope = distance / (2 + abs(distance))
    return {last: 1 + slope, before: -slope}


def typical_steps(num_steps: int, num_computed: int) -> tuple[int, ...]:
    """Which steps to compute when nothing is known of the model: the first and the last, and denser at both ends.

    What the result needs most differs. On video and at high guidance it is the first steps, which decide what goes
    where; on images otherwise the last ones, whose errors nothing damps any more (as OSS finds, arXiv 2503.21774).
    The fewer there are, the more they are needed at the end.

    Args:
        num_steps: T.
        num_computed: How many, between 1 and T.
    """
    if num_computed >= num_steps:
        return tuple(range(num_steps))
    if num_computed == 1:
        return (0,)
    later = LATER * max(0.0, 1 - 2 * num_computed / num_steps)
    found: list[int] = []
    for k in range(num_computed):
        share = k / (num_computed - 1)
        share -= ENDS * sin(2 * pi * share) / (2 * pi)
        wanted = round((num_steps - 1) * (1 - (1 - share) ** (1 + later)))
        lowest = found[-1] + 1 if found else 0
        highest = num_steps - (num_computed - k)
        found.append(min(max(wanted, lowest), highest))
    return tuple(found)
