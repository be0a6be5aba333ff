"""Answering a denoiser evaluation by theory alone: which steps to compute, and the weights of earlier outputs.

Between two computed steps the output is taken for a polynomial in the noise level, through the last computed outputs:
what an Adams or DPM-Solver++ multistep method assumes (Lu et al., arXiv 2211.01095; Zhang & Chen, arXiv 2204.13902).
No run of the model is needed, so nothing is known of the error.
"""

from collections.abc import Sequence

ORDER = 1  # of the polynomial: a line through two outputs; a parabola was worse on three of our four models
TIGHT = 1e-9  # nodes that are closer than this, as a share of the range, are the same point


def lagrange(nodes: Sequence[float], at: float) -> list[float]:
    """Weights by which values at distinct ``nodes`` are combined to the value of their polynomial at ``at``."""
    weights = []
    for j, own in enumerate(nodes):
        weight = 1.0
        for k, other in enumerate(nodes):
            if k != j:
                weight *= (at - other) / (own - other)
        weights.append(weight)
    return weights


def theory_weights(
    levels: Sequence[float], computed: Sequence[int], step: int, order: int = ORDER
) -> dict[int, float]:
    """By which weights the outputs of computed steps answer ``step``.

    A polynomial of order 2 or more is lowered to a line where ``step`` is further from the last node than the last two
    nodes are from each other, so that errors are not blown up.

    Args:
        levels: Noise level of every step (sigma, or sigma / alpha); schedulers of second order repeat values.
        computed: Steps whose outputs there are, in order; at least one, all before ``step``.
        step: The one to answer.
        order: Of the polynomial, at most.

    Returns:
        Weights by step; they add up to 1.
    """
    tight = TIGHT * (max(levels) - min(levels))
    chosen: list[int] = []
    for node in reversed(computed):
        if all(abs(levels[node] - levels[other]) > tight for other in chosen):
            chosen.append(node)
        if len(chosen) > order:
            break
    at, last = levels[step], levels[chosen[0]]
    while len(chosen) > 2 and abs(at - last) > abs(last - levels[chosen[1]]):
        chosen.pop()
    return dict(zip(chosen, lagrange([levels[node] for node in chosen], at), strict=True))


def typical_steps(num_steps: int, num_computed: int) -> tuple[int, ...]:
    """Which steps to compute when nothing is known of the model: denser toward the end, the first and last among them.

    Most solvers and searches agree that the last steps, whose errors nothing damps any more, are worth computing, and
    that of the first ones every third or fourth is enough (OSS, arXiv 2503.21774; ours on four models:
    ``docs/trajectories.md``).

    Args:
        num_steps: T.
        num_computed: How many, between 1 and T.
    """
    if num_computed >= num_steps:
        return tuple(range(num_steps))
    if num_computed == 1:
        return (0,)
    found: list[int] = []
    for k in range(num_computed):
        share = k / (num_computed - 1)
        wanted = round((num_steps - 1) * (1 - (1 - share) ** DENSER))
        lowest = found[-1] + 1 if found else 0
        highest = num_steps - (num_computed - k)
        found.append(min(max(wanted, lowest), highest))
    return tuple(found)


DENSER = 1.5  # how much denser the last computed steps are than the first
