"""The rivals that leave out whole denoiser calls: their rules on cases with a known answer, and what they compute."""

from dataclasses import replace
from itertools import combinations, pairwise
from random import Random

import pytest
import torch
from rivals.base import Setting, Task
from rivals.kept_outputs import record
from rivals.l2p import L2P, inner_products, mixtures
from rivals.meancache import Jump, MeanCache, cheapest_path, jump_errors, next_velocity
from rivals.velocities import PREDICTIONS, velocities_of
from tiny_pipelines import tiny_call, tiny_pipeline
from torch import nn

from dit_accel.families.pipeline import find_denoisers

PIPELINES = ("pixart", "sd", "flux", "wan")
STEPS = 8
BRANCHES = {"pixart": 1, "sd": 1, "flux": 1, "wan": 2}


def _task(pipe: object, name: str) -> Task:
    return Task(
        num_inference_steps=STEPS,
        calibrate=lambda: pipe(**tiny_call(name, num_inference_steps=STEPS)),  # type: ignore[operator]
    )


def _calls(pipe: object, name: str) -> int:
    """How often the denoiser's first layer with weights really runs in one run."""
    denoiser: nn.Module = find_denoisers(pipe)[0][1]
    first = next(module for module in denoiser.modules() if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear))
    seen: list[int] = []
    handle = first.register_forward_hook(lambda *_: seen.append(1))
    try:
        pipe(**tiny_call(name, num_inference_steps=STEPS))  # type: ignore[operator]
    finally:
        handle.remove()
    return len(seen)


@pytest.mark.parametrize("name", PIPELINES)
def test_a_recording_has_every_call_and_step(name: str) -> None:
    pipe, heard = tiny_pipeline(name), []
    record(pipe, lambda: [_task(pipe, name).calibrate() for _ in range(2)], heard.append)
    assert [len(each.outputs) for each in heard] == [STEPS, STEPS]
    assert [len(each.latents) for each in heard] == [STEPS, STEPS]
    assert [[len(outputs) for outputs in each.calls.values()] for each in heard] == [[STEPS] * BRANCHES[name]] * 2


@pytest.mark.parametrize("name", PIPELINES)
def test_l2p_computes_every_nth_step(name: str) -> None:
    pipe = tiny_pipeline(name)
    setting = Setting(name="", rival="", params={"interval": 3})
    with L2P().applied(pipe, setting, _task(pipe, name)):
        assert _calls(pipe, name) == 3 * BRANCHES[name]


def test_l2p_reproduces_a_linear_trajectory() -> None:
    """Outputs that move along a line are mixtures of any two of them; with one known, it can only be repeated."""
    torch.manual_seed(0)
    base, slope = torch.randn(2, 500, dtype=torch.float64)
    outputs = torch.stack([base + step * slope for step in range(9)])
    weights = mixtures((outputs @ outputs.T).tolist(), 2, ridge=1e-12)
    assert [row is None for row in weights] == [True, False] * 4 + [True]
    for step in (3, 5, 7):
        row = weights[step]
        assert row is not None
        mixed = torch.tensor(row, dtype=torch.float64) @ outputs[0:step:2]
        assert torch.allclose(mixed, outputs[step], atol=1e-4)


def test_l2p_starts_from_the_last_output() -> None:
    torch.manual_seed(0)
    outputs = torch.randn(6, 50, dtype=torch.float64)
    weights = mixtures((outputs @ outputs.T).tolist(), 3, ridge=1e9)
    assert weights[4] == pytest.approx([0, 1], abs=1e-6)


def test_l2p_learns_over_branches_and_runs() -> None:
    pipe = tiny_pipeline("wan")
    task = _task(pipe, "wan")
    heard: list = []
    record(pipe, task.calibrate, heard.append)
    first, second = heard[0].calls[0][2], heard[0].calls[1][2]
    assert inner_products(pipe, task)[2][2] == pytest.approx(float(first.square().sum() + second.square().sum()))


@pytest.mark.parametrize("name", PIPELINES)
def test_meancache_computes_what_it_is_set_to(name: str) -> None:
    pipe = tiny_pipeline(name)
    with MeanCache().applied(pipe, Setting(name="", rival="", params={"computed": 4}), _task(pipe, name)):
        assert _calls(pipe, name) == 4 * BRANCHES[name]


def test_meancache_finds_the_cheapest_path_of_all() -> None:
    random = Random(0)
    costs = [
        (first, last, span, random.random() * (last - first))
        for first, last in combinations(range(8), 2)
        for span in (1, 2, 3)
    ]
    least = {
        (first, last): min(cost for *edge, _, cost in costs if edge == [first, last]) for first, last, _, _ in costs
    }
    for computed in range(2, 9):
        paths = [(0, *inner, 7) for inner in combinations(range(1, 7), computed - 2)]
        best = min(sum(least[edge] ** 4 for edge in pairwise(path)) for path in paths)
        found = cheapest_path(costs, 8, computed)
        assert len(found) == computed - 1
        assert [jump.last for jump in found[:-1]] == [jump.first for jump in found[1:]]
        assert sum(cost**4 for *jump, cost in costs if Jump(*jump) in found) == pytest.approx(best)


def test_meancache_weighs_large_jumps_by_gamma() -> None:
    costs = [(0, 1, 1, 0.0), (1, 3, 1, 3.0), (0, 2, 1, 2.0), (2, 3, 1, 2.0)]
    assert [jump.last for jump in cheapest_path(costs, 4, 3, gamma=1)] == [1, 3]
    assert [jump.last for jump in cheapest_path(costs, 4, 3, gamma=4)] == [2, 3]


def test_meancache_goes_on_as_the_formula_says() -> None:
    """Velocity 2s: the mean from 1.0 to 0.6 is 1.6, so J = (1.6 - 2) / -0.4 = 1, and the step to 0.4 adds -0.2."""
    positions = [torch.tensor(s * s, dtype=torch.float64) for s in (1.0, 0.8, 0.6)]
    velocities = [torch.tensor(2 * s, dtype=torch.float64) for s in (1.0, 0.8)]
    levels = [1.0, 0.8, 0.6, 0.4]
    assert float(next_velocity(levels, positions, velocities, 2)) == pytest.approx(1.6 - 0.2)
    assert next_velocity(levels, positions, velocities, 1) is velocities[-1]


def test_meancache_costs_nothing_where_nothing_changes() -> None:
    levels = (1.0, 0.7, 0.5, 0.2, 0.1)
    still = [torch.ones(3, dtype=torch.float64)] * 5
    errors = jump_errors(levels, [torch.full((3,), s, dtype=torch.float64) for s in levels], still)
    assert max(errors.values()) == pytest.approx(0, abs=1e-12)
    bent = jump_errors(levels, still, [torch.full((3,), s, dtype=torch.float64) for s in levels])
    assert bent[Jump(0, 1, 1)] == 0
    assert bent[Jump(0, 2, 1)] == pytest.approx((0.3 * 0.2) / 0.5)


@pytest.mark.parametrize("name", PIPELINES)
def test_an_output_is_a_velocity_and_back(name: str) -> None:
    """DDIM and flow steps are Euler's in this variable; the conversion is undone exactly for every solver."""
    pipe, heard = tiny_pipeline(name), []
    record(pipe, _task(pipe, name).calibrate, heard.append)
    at = velocities_of(pipe.scheduler)
    for kind in ("velocity",) if name in ("flux", "wan") else PREDICTIONS:
        at = replace(at, kind=kind)
        for step, (output, latents) in enumerate(zip(heard[0].outputs, heard[0].latents, strict=True)):
            exact, x = output.double(), latents.double()
            assert torch.allclose(at.output(step, at.velocity(step, exact, x), x), exact)
    if name in ("sd", "flux"):
        at, run = velocities_of(pipe.scheduler), heard[0]
        for step in range(STEPS - 1):
            moved = at.position(step + 1, run.latents[step + 1]) - at.position(step, run.latents[step])
            velocity = at.velocity(step, run.outputs[step], run.latents[step])
            assert torch.allclose(moved, (at.levels[step + 1] - at.levels[step]) * velocity, atol=1e-4)
