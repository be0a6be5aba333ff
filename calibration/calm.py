"""Keeps answers from multiplying rounding noise: a bound on what their weights make of it.

Every computed output of a quantised denoiser is off by its own rounding. An answer that is a weighted sum of outputs
is off by the same sum of their errors, which, as far as those of different steps are strangers, grows with the root
of the weights' squares: the *gain*, 1 for a computed output. Differences of neighbouring steps have gains of 5 and
more, for which NVIDIA's cosmos-framework (pull request 247) turns caching off on quantised models; least squares on
the quantised model's own outputs seldom has gains above 1, and this bound is for where it has.

The ridge of the fit is raised until the gain is within the bound. It pulls toward theory's weights, which extrapolate:
where these are beyond the bound themselves they are mixed with the last output as it is, whose gain is 1.
"""

from collections.abc import Callable
from typing import Any

from dit_accel.calibration.regression import ridge_toward
from dit_accel.errors import ConfigError
from dit_accel.passes.trajectory.config import LATENTS, TrajectoryConfig

MOST_GAIN = 1.5  # of answers that are fitted to a quantised model
HALVINGS = 40  # of the share of theory in the prior
FIRST_RAISE, RAISE, LARGEST = 1e-8, 2.0, 1e12  # of the ridge, relative to the regressors' own size

Gain = Callable[[Any], float]
"""From weights [R] to how much of the outputs' noise they take over."""


def check_gain(most: float) -> None:
    """Refuse a bound that the last output, used as it is, would not keep.

    Raises:
        ConfigError: It is below 1.
    """
    if not most >= 1:
        raise ConfigError(f"'most_gain' must be at least 1, the gain of an output that is used as it is; got {most!r}")


def largest_gain(config: TrajectoryConfig, scale: float | None = None) -> float:
    """The largest gain of the answers of a fitted plan, 0 without answers.

    Args:
        config: With weights.
        scale: Guidance scale, of a plan with weights of its own for each branch.
    """
    if config.weights is None or config.computed is None:
        return 0.0
    answered = [not computed for computed in config.computed]
    rows = config.weights[answered][:, :LATENTS].square().sum(1)
    if config.unconditional is None:
        return float(rows.amax().sqrt()) if len(rows) else 0.0
    others = config.unconditional[answered][:, :LATENTS].square().sum(1)
    g = 1.0 if scale is None else scale
    whole = (g * g * rows + (1 - g) ** 2 * others) / (g * g + (1 - g) ** 2)
    return float(whole.amax().sqrt()) if len(whole) else 0.0


def calmed(gram: Any, right: Any, prior: Any, steady: Any, gain: Gain, most: float, ridge: float) -> Any:
    """Weights of a fit whose gain is at most ``most``.

    Args:
        gram: float64 [P, R, R], of the regressors, by prompt.
        right: float64 [P, R], of regressors and target.
        prior: float64 [R]: theory's weights.
        steady: float64 [R]: the last output as it is; its gain is 1.
        gain: See :data:`Gain`; convex, as norms are.
        most: At least 1.
        ridge: Strength that the fit chose, from which it is raised.

    Returns:
        float64 [R].
    """
    near = _mixed(prior, steady, gain, most)
    while ridge < LARGEST:
        weights, _ = ridge_toward(gram, right, near, (ridge,))
        if gain(weights) <= most:
            return weights
        ridge = max(ridge, FIRST_RAISE) * RAISE
    return near


def _mixed(prior: Any, steady: Any, gain: Gain, most: float) -> Any:
    """The largest share of theory that is within the bound."""
    if gain(prior) <= most:
        return prior
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if gain(steady + middle * (prior - steady)) <= most else (low, middle)
    return steady + low * (prior - steady)
