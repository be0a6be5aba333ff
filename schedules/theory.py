"""Answering a denoiser evaluation by theory alone: which steps to compute, and the weights of what is known.

Between computed steps the *noise estimate* is continued along a line in the noise level, through the last two of them,
with a slope that is damped; the answer is the output that says so of the latents as they are now. Multistep methods
assume such a line (DEIS, Zhang & Chen, arXiv 2204.13902; DPM-Solver++, Lu et al., arXiv 2211.01095), of the noise or
the data estimate, and undamped. No run of the model is needed, so nothing is known of the error.

Why the noise estimate: an answer by outputs alone knows nothing of where earlier answers have led; one that is made of
the latents does. On recorded runs of four models it was the smoothest of output, data and noise estimate from gaps of
two on, and the further the gap the more. Why damped: neighbouring outputs differ by more than the trend, and a line
through two of them carries that on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import pi, sin, sqrt

ORDER = 1  # of the polynomial: a line through two outputs; a parabola was worse on three of our four models
DAMPING = 0.7  # of the line's slope: the best of 0, 0.3, 0.5, 0.7 and 1 over our four models' recorded runs
TIGHT = 1e-9  # nodes that are closer than this, as a share of the range, are the same point
LEAST_SIGNAL = 0.03  # below, an output follows from a noise estimate by a division that blows up what was rounded
ENDS = 0.5  # how much denser the first and the last computed steps are than those in the middle


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """How a noise estimate is made at every step: ``of_output * output + of_latents * latents``.

    The latents are those that the denoiser is given, scaled as a variance-preserving process has them.
    """

    of_output: tuple[float, ...]
    of_latents: tuple[float, ...]


def noise_estimate(prediction: str, levels: Sequence[float]) -> Estimate | None:
    """The noise estimate of what a denoiser predicts; ``None``: it already is one, or what it predicts is not known.

    Args:
        prediction: ``"flow"`` (noise less data, the level is the share of noise), ``"v_prediction"`` or ``"sample"``
            (the level is sigma / alpha, of alpha^2 + sigma^2 = 1), or anything else.
        levels: Noise level of every step.
    """
    if prediction == "flow" and max(levels, default=2.0) <= 1:
        return Estimate(of_output=tuple(1 - level for level in levels), of_latents=(1.0,) * len(levels))
    signal = [1 / sqrt(1 + level * level) for level in levels]
    noise = [level * part for level, part in zip(levels, signal, strict=True)]
    if prediction == "v_prediction":
        return Estimate(of_output=tuple(signal), of_latents=tuple(noise))
    if prediction == "sample" and min(noise, default=0.0) > 0:
        pairs = list(zip(signal, noise, strict=True))
        return Estimate(of_output=tuple(-a / s for a, s in pairs), of_latents=tuple(1 / s for _, s in pairs))
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Weights of what an evaluation is answered by.

    Attributes:
        outputs: Of computed outputs, by step.
        latents: Of the latents at computed steps, by step.
        now: Of the latents at the answered step.
    """

    outputs: Mapping[int, float]
    latents: Mapping[int, float]
    now: float = 0.0


def theory_answer(
    levels: Sequence[float], computed: Sequence[int], step: int, estimate: Estimate | None = None
) -> Answer:
    """By which weights ``step`` is answered.

    Args:
        levels: Noise level of every step (sigma, or sigma / alpha); schedulers of second order repeat values.
        computed: Steps whose outputs there are, in order; at least one, all before ``step``.
        step: The one to answer.
        estimate: How outputs and latents become noise estimates; ``None``: outputs are continued as they are.
    """
    line = theory_weights(levels, computed, step)
    last = max(line)
    damped = {node: DAMPING * weight + (1 - DAMPING) * (node == last) for node, weight in line.items()}
    if estimate is None or abs(estimate.of_output[step]) < LEAST_SIGNAL:
        return Answer(outputs=damped, latents={})
    own = estimate.of_output[step]
    return Answer(
        outputs={node: weight * estimate.of_output[node] / own for node, weight in damped.items()},
        latents={node: weight * estimate.of_latents[node] / own for node, weight in damped.items()},
        now=-estimate.of_latents[step] / own,
    )


def theory_weights(
    levels: Sequence[float], computed: Sequence[int], step: int, order: int = ORDER
) -> dict[int, float]:
    """By which weights the values at computed steps give that of their polynomial at ``step``.

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
    """Which steps to compute when nothing is known of the model: denser at both ends, the first and last among them.

    What the end result needs most differs: on our image models with low guidance the last steps, whose errors nothing
    damps any more (as OSS finds, arXiv 2503.21774), on video and at high guidance the first ones, which decide what
    goes where. Denser at both ends is never far off (``docs/trajectories.md``).

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
        wanted = round((num_steps - 1) * (share - ENDS * sin(2 * pi * share) / (2 * pi)))
        lowest = found[-1] + 1 if found else 0
        highest = num_steps - (num_computed - k)
        found.append(min(max(wanted, lowest), highest))
    return tuple(found)
