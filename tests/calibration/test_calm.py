"""The bound on what answers make of rounding noise."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_call, tiny_pipeline

from dit_accel.calibration.calm import calmed, largest_gain
from dit_accel.calibration.fit import fit
from dit_accel.calibration.recording import record
from dit_accel.calibration.regression import ridge_toward
from dit_accel.errors import ConfigError
from dit_accel.passes.trajectory.config import TrajectoryConfig


def extrapolation() -> tuple[Any, Any]:
    """Four prompts whose next output goes straight on from two: least squares finds 2 and -1, a gain of 2.24."""
    draw = np.random.default_rng(0)
    old, new = draw.normal(size=(2, 4, 50))
    regressors, target = np.stack([new + old, new], 1), new + new - (new + old)
    target = 2 * regressors[:, 1] - regressors[:, 0]
    return np.einsum("prd,psd->prs", regressors, regressors), np.einsum("prd,pd->pr", regressors, target)


def gain(weights: Any) -> float:
    return float(np.linalg.norm(weights))


@pytest.mark.parametrize("prior", [(-1.0, 2.0), (-3.0, 4.0), (0.0, 1.0)])
@pytest.mark.parametrize("most", [1.0, 1.2, 2.0])
def test_the_ridge_is_raised_until_the_gain_is_within_the_bound(prior: tuple[float, float], most: float) -> None:
    gram, right = extrapolation()
    free, ridge = ridge_toward(gram, right, np.array(prior))
    assert gain(free) == pytest.approx(5**0.5, rel=1e-3)
    steady = np.array([0.0, 1.0])
    found = calmed(gram, right, np.array(prior), steady, gain, most, ridge)
    assert gain(found) <= most * (1 + 1e-9)

    def loss(w: Any) -> float:
        return float(w @ gram.sum(0) @ w - 2 * w @ right.sum(0))

    # No more is given up than the bound asks for: of all weights of that gain it is near the best.
    around = (np.array([np.cos(a), np.sin(a)]) * most for a in np.linspace(0, 2 * np.pi, 3600))
    assert loss(found) <= loss(steady) + 1e-9
    assert loss(found) - min(map(loss, around)) <= 0.5 * (loss(steady) - min(loss(free), loss(steady)))


def run_of(pipe: Any, name: str) -> Any:
    def draw(first: int, last: int) -> torch.Tensor:
        found = []
        for seed in range(first, last):
            call = tiny_call(name, num_inference_steps=6)
            call["generator"] = torch.Generator().manual_seed(seed)
            found.append(pipe(**call)[0])
        return torch.cat([each if isinstance(each, torch.Tensor) else torch.stack(list(each)) for each in found])

    return draw


@pytest.mark.parametrize("branches", [False, True])
def test_every_answer_of_a_fit_keeps_the_bound(branches: bool) -> None:
    pipe = tiny_pipeline("pixart")
    draw = run_of(pipe, "pixart")
    reference = record(pipe, draw, 0, 1)
    scale = reference.conditions.guidance_scale
    gains = {}
    for most in (np.inf, 1.01):
        config = fit(pipe, draw, reference, (0, 1, 2), 0, 1, branches=branches, most_gain=most).config
        gains[most] = largest_gain(config, scale)
    assert gains[np.inf] > 1.01, "nothing to bound: choose other evaluations"
    assert gains[1.01] <= 1.01 * (1 + 1e-5)


def test_gains_are_of_answers_alone() -> None:
    table = torch.zeros(4, 6, dtype=torch.float64)
    table[1, 0] = 9.0  # a forecast of a computed evaluation
    table[2, :2] = torch.tensor([3.0, 4.0])
    table[2, -2] = 7.0  # latents carry no rounding of this kind
    config = TrajectoryConfig(computed=(True, True, False, True), weights=table)
    assert largest_gain(config) == 5.0
    apart = TrajectoryConfig(computed=config.computed, weights=table, unconditional=table / 2)
    expected = np.sqrt((4 * 25 + 1 * 6.25) / 5)
    assert largest_gain(apart, 2.0) == pytest.approx(expected)
    assert largest_gain(TrajectoryConfig(speedup=2.0)) == 0.0


def test_what_a_bound_does_not_go_with() -> None:
    pipe = tiny_pipeline("pixart")
    for how, words in itertools.chain(
        [({"most_gain": 0.9}, "at least 1")],
        [({"most_gain": 2.0, name: 1}, "bound on the gain") for name in ("polish", "sweeps")],
    ):
        with pytest.raises(ConfigError, match=words):
            fit(pipe, None, record(pipe, run_of(pipe, "pixart"), 0, 1), (0, 2), 0, 1, **how)  # type: ignore[arg-type]
