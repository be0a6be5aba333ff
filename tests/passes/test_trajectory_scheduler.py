"""The same plan as a scheduler of diffusers', for those who can change nothing else."""

from dataclasses import replace

import diffusers
import pytest
import torch
from tiny import tiny_pipeline
from trajectory_runs import HALF, SCHEDULERS, counted, run, table

from dit_accel import (
    AccelerationPlan,
    GeneratorSpec,
    StaticCacheConfig,
    TrajectoryConfig,
    accelerate_pipeline,
    remove_acceleration,
    to_scheduler,
)
from dit_accel.errors import AccelerationWarning, ConfigError, PlanMismatchError, UnsupportedModelError
from dit_accel.families.targets import find_targets
from dit_accel.passes.trajectory.config import LATENTS, NOISE
from dit_accel.plan.fingerprint import fingerprint


@pytest.mark.parametrize("name", ["pixart", "sd", "flux", "wan", "sd3"])
@pytest.mark.parametrize("fitted", [True, False])
def test_as_a_scheduler_it_is_the_same(name: str, fitted: bool) -> None:
    pipe = tiny_pipeline(name)
    rows = {1: {0: 0.8, LATENTS: 0.1}, 3: {0: -0.2, 2: 1.1, NOISE: 0.05}, 5: {4: 0.9, 2: 0.1}, 7: {6: 1.0}}
    plan = AccelerationPlan(passes=(replace(HALF, weights=table(rows)) if fitted else HALF,))
    accelerate_pipeline(pipe, plan)
    inside = run(pipe, name)
    remove_acceleration(pipe)
    stock, calls = pipe.scheduler, counted(pipe)
    pipe.scheduler = to_scheduler(plan, stock)
    torch.testing.assert_close(run(pipe, name), inside, rtol=2e-3, atol=2e-3)
    fewer, calls[0] = calls[0], 0
    pipe.scheduler = stock
    run(pipe, name)
    assert fewer * 2 == calls[0]


@pytest.mark.parametrize("scheduler", [s for s in SCHEDULERS if s not in ("ddpm", "sde-dpm++2m", "euler-a")])
def test_as_a_scheduler_of_every_kind(scheduler: str) -> None:
    pipe = tiny_pipeline("sd")
    make, settings = SCHEDULERS[scheduler]
    pipe.scheduler = make(**settings)
    plan = TrajectoryConfig(speedup=2.0)
    accelerate_pipeline(pipe, plan)
    inside = run(pipe, "sd")
    remove_acceleration(pipe)
    pipe.scheduler = to_scheduler(plan, pipe.scheduler)
    torch.testing.assert_close(run(pipe, "sd"), inside, rtol=2e-3, atol=2e-3)


def test_what_has_no_form_as_a_scheduler_is_refused() -> None:
    stock = diffusers.DDIMScheduler()
    with pytest.raises(ConfigError, match="'custom' has: trajectory, static_cache"):
        to_scheduler([HALF, StaticCacheConfig(schedule=GeneratorSpec("full_steps", n=2))], stock)
    with pytest.raises(UnsupportedModelError, match="new noise"):
        to_scheduler(HALF, diffusers.LCMScheduler())
    two = AccelerationPlan(passes=(HALF,), fingerprints=tuple(map(fingerprint, find_targets(tiny_pipeline("wan22")))))
    with pytest.raises(ConfigError, match="by theory, for 2 denoisers"):
        to_scheduler(two, stock)
    with pytest.warns(AccelerationWarning, match="guard does not watch"):
        to_scheduler(replace(HALF, weights=table({1: {0: 1.0}}), guard=(1.0,) * 8, guarded=True), stock)
    pipe = tiny_pipeline("pixart")
    pipe.scheduler = to_scheduler(HALF, pipe.scheduler)
    with pytest.raises(PlanMismatchError, match="8 denoiser evaluations and the run has 12"):
        run(pipe, "pixart", num_inference_steps=12)
