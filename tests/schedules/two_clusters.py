"""A denoiser that can be written down, for which every rule of answering can be run in milliseconds.

The data has independent directions, narrow to broad; in each there are two clusters. The best denoiser of that is
known in closed form (a posterior mean), is not linear, and decides for a cluster at the noise level that matches the
direction's breadth. Levels are those of the four embedded pipelines' samplers, as formulas.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
BREADTHS = np.geomspace(0.05, 4.0, 16)[:, None]  # standard deviation of the data in each direction
CENTRE, WIDTH = 0.9, 0.4  # of a cluster, in units of that
DRAWS = 64

Rule = Callable[[Sequence[float], Sequence[int], int], Mapping[int, float]]
"""Weights of computed outputs, from the levels, the computed steps and the step to answer."""


def shifted(num_steps: int, shift: float) -> list[float]:
    """Share of noise at every step of a flow whose time is shifted."""
    times = [1 - k / num_steps for k in range(num_steps)]
    return [shift * time / (1 + (shift - 1) * time) for time in times]


def cosine(num_steps: int, first: float, last: float) -> list[float]:
    """sigma / alpha at evenly spaced times of a cosine schedule."""
    return [float(np.tan(np.pi / 2 * time)) for time in np.linspace(first, last, num_steps)]


SAMPLERS = {
    "flux": (True, shifted(28, 1.59)),
    "wan": (True, shifted(20, 3.0)),
    "pixart": (False, cosine(20, 0.996, 0.058)),
    "sd": (False, cosine(50, 0.982, 0.006)),
}


class Sampler:
    """Euler steps of a flow, or DDIM steps of a v-prediction, through the denoiser of the clusters."""

    def __init__(self, is_flow: bool, levels: Sequence[float]) -> None:
        self.is_flow = is_flow
        self.levels = list(levels)
        level = np.array([*levels, 0.0])
        self.signal = 1 - level if is_flow else 1 / np.sqrt(1 + level**2)
        self.noise = level * (1.0 if is_flow else self.signal)
        self.start = np.random.default_rng(0).standard_normal((len(BREADTHS), DRAWS))
        self.plain = self.run(range(len(levels)), lambda *_: {})

    def output(self, latents: Array, step: int) -> Array:
        """Of the denoiser."""
        signal, noise = self.signal[step], self.noise[step]
        centre, spread = CENTRE * BREADTHS, (WIDTH * BREADTHS) ** 2
        variance = signal**2 * spread + noise**2
        side = np.tanh(signal * centre * latents / variance)
        data = centre * side + spread * signal / variance * (latents - signal * centre * side)
        part: Array = (latents - signal * data) / noise
        return part - data if self.is_flow else signal * part - noise * data

    def run(self, computed: Sequence[int], rule: Rule) -> Array:
        """The last latents of a run in which the steps that are not computed are answered."""
        latents, outputs = self.start, {}
        for step in range(len(self.levels)):
            if step in computed:
                made = outputs[step] = self.output(latents, step)
            else:
                made = sum(weight * outputs[node] for node, weight in rule(self.levels, list(outputs), step).items())
            if self.is_flow:
                latents = latents + (self.noise[step + 1] - self.noise[step]) * made
            else:
                data = self.signal[step] * latents - self.noise[step] * made
                part = self.noise[step] * latents + self.signal[step] * made
                latents = self.signal[step + 1] * data + self.noise[step + 1] * part
        return latents

    def error_db(self, computed: Sequence[int], rule: Rule) -> float:
        """Distance from the plain run, mean square, in decibel: lower is closer."""
        return float(10 * np.log10(((self.run(computed, rule) - self.plain) ** 2).mean()))
