"""Optimal steps: the stock schedulers on some of their timesteps, and the search for the best of them."""

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from rivals.base import Setting, Task
from rivals.optimal_steps import OptimalSteps, Search, best_routes, median_route
from rivals.snapshot import Snapshot
from rivals.subset_of_steps import take_only
from rivals.trajectory import only_denoiser
from tiny_pipelines import tiny_call, tiny_pipeline

PIPELINES = ("pixart", "sd", "flux", "wan")
STEPS = 8
BRANCHES = {"pixart": 1, "sd": 1, "flux": 1, "wan": 2}


def _run(pipe: Any, name: str, steps: int = STEPS) -> torch.Tensor:
    made: torch.Tensor = pipe(**tiny_call(name, num_inference_steps=steps))[0]
    return made


def _task(pipe: Any, name: str) -> Task:
    return Task(num_inference_steps=STEPS, calibrate=lambda: _run(pipe, name))


@pytest.mark.parametrize("name", PIPELINES)
def test_all_steps_are_the_plain_run(name: str) -> None:
    pipe = tiny_pipeline(name)
    plain, snapshot = _run(pipe, name), Snapshot(pipe)
    take_only(pipe.scheduler, range)
    assert torch.equal(_run(pipe, name), plain)
    snapshot.restore()
    assert torch.equal(_run(pipe, name), plain)


@pytest.mark.parametrize("kind", ["DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"])
def test_every_second_step_is_a_run_of_half_as_many(kind: str) -> None:
    """With trailing timesteps the grid of half as many is every second entry of the grid."""
    pipe = tiny_pipeline("sd")
    extra = {"clip_sample": False} if kind == "DDIMScheduler" else {}
    pipe.scheduler = getattr(diffusers, kind)(timestep_spacing="trailing", **extra)
    half = _run(pipe, "sd", 4)
    take_only(pipe.scheduler, lambda count: range(0, count, 2))
    assert torch.allclose(_run(pipe, "sd"), half, atol=1e-5)


@pytest.mark.parametrize("name", PIPELINES)
def test_computes_as_many_steps_as_set(name: str) -> None:
    pipe = tiny_pipeline(name)
    calls: list[int] = []
    handle = only_denoiser(pipe).register_forward_hook(lambda *_: calls.append(1))
    task = _task(pipe, name)
    rival = OptimalSteps()
    rival.prepare(pipe, task)
    calls.clear()
    with rival.applied(pipe, Setting(name="", rival="", params={"steps": 3}), task):
        _run(pipe, name)
    handle.remove()
    assert len(calls) == 3 * BRANCHES[name]


@pytest.mark.parametrize("name", PIPELINES)
def test_the_search_evaluates_on_policy(name: str) -> None:
    """What the search says of a path is what the pipeline makes on it: its errors are those of real runs."""
    pipe = tiny_pipeline(name)
    task = _task(pipe, name)
    ends: list[torch.Tensor] = []
    search_end: dict[int, float] = {}
    snapshot = Snapshot(pipe)
    search = Search(pipe.scheduler, 4)
    original = search._leave

    def leave(level: int, step: int, *args: Any) -> None:
        original(level, step, *args)
        search_end[level + 1] = search.reached[STEPS].error

    search._leave = leave  # type: ignore[method-assign]
    task.calibrate()
    snapshot.restore()
    reference = search.reference[-1]
    for count in (1, 2, 3, 4):
        route = search.routes[count][0]
        assert len(route) == count
        snapshot = Snapshot(pipe)
        take_only(pipe.scheduler, lambda _, route=route: route)
        inner = pipe.scheduler.step

        def step(*args: Any, inner: Callable[..., Any] = inner, **kwargs: Any) -> Any:
            result = inner(*args, **kwargs)
            ends.append(result[0])
            return result

        pipe.scheduler.step = step
        _run(pipe, name)
        snapshot.restore()
        error = float((ends[-1].double() - reference.double()).square().sum())
        assert error == pytest.approx(search_end[count], rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("most", [2, 3])
def test_finds_the_best_steps_of_a_toy(most: int) -> None:
    """The velocity changes at steps 3 and 6 only; Euler's method is exact when it stops there."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    search = Search(scheduler, most)
    scheduler.set_timesteps(8)
    bends = (3, 6) if most == 3 else (5,)
    first, *later = [float(search.grid.timesteps[step]) for step in (0, *bends)]
    assert first > later[0]
    latents = torch.zeros(1, 4)
    for t in scheduler.timesteps:
        velocity = 1.0 + sum(float(t) <= bend for bend in later)
        latents = scheduler.step(torch.full((1, 4), velocity), t, latents, return_dict=False)[0]
    assert search.routes[most] == [[0, *bends]]


def test_the_median_rises() -> None:
    assert median_route([[0, 2, 5], [0, 3, 4], [0, 1, 7], [0, 4, 6]]) == [0, 2, 5]


def test_leaves_no_trace_of_the_search() -> None:
    pipe = tiny_pipeline("sd")
    plain = _run(pipe, "sd")
    before = sorted(vars(pipe.scheduler))
    best_routes(pipe, _task(pipe, "sd"), most=3)
    assert torch.equal(_run(pipe, "sd"), plain)
    assert sorted(vars(pipe.scheduler)) == before
    assert type(pipe.scheduler.num_inference_steps) is int


def test_says_why_not() -> None:
    pipe = tiny_pipeline("sd")
    pipe.scheduler = diffusers.PNDMScheduler()
    assert "PNDMScheduler" in str(OptimalSteps().supports(pipe))
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")
    assert "noise" in str(OptimalSteps().supports(pipe))
