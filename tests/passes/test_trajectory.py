"""Calls answered from earlier ones: on every kind of pipeline, under every scheduler, undone without a trace."""

from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from every_other import PASS as EVERY_OTHER
from snapshot import assert_same, snapshot
from tiny import tiny_call, tiny_pipeline
from trajectory_runs import HALF, SCHEDULERS, STEPS, counted, effect, run, table

from dit_accel import (
    GeneratorSpec,
    StaticCacheConfig,
    TrajectoryConfig,
    accelerate_pipeline,
    remove_acceleration,
    summary,
)
from dit_accel.errors import AccelerationWarning, PlanMismatchError, UnsupportedModelError
from dit_accel.families.pipeline import find_denoisers
from dit_accel.passes.base import PASSES
from dit_accel.passes.trajectory.config import LATENTS, NOISE
from dit_accel.passes.trajectory.levels import noise_levels, why_not
from dit_accel.plan.config import CONFIGS
from dit_accel.schedules.theory import theory_weights
from dit_accel.session.session import session_of


@pytest.mark.parametrize("name", ["pixart", "sd", "sdxl", "flux", "sd3", "wan", "wan22", "cogvideox", "hunyuan_video"])
def test_answers_half_and_is_undone_exactly(name: str) -> None:
    pipe = tiny_pipeline(name)
    plain, before = run(pipe, name), snapshot(pipe)
    accelerate_pipeline(pipe, HALF)
    made = run(pipe, name)
    assert torch.isfinite(made).all() and not torch.equal(made, plain)
    assert effect(pipe).actual_frac == (0.5 if name != "wan22" else pytest.approx(0.5, abs=0.25))
    assert torch.equal(run(pipe, name), made)
    remove_acceleration(pipe)
    assert_same(before, snapshot(pipe))
    assert torch.equal(run(pipe, name), plain)


@pytest.mark.parametrize("name", ["pixart", "flux", "wan", "sd"])
def test_computing_everything_changes_nothing(name: str) -> None:
    pipe = tiny_pipeline(name)
    plain = run(pipe, name)
    accelerate_pipeline(pipe, TrajectoryConfig(computed=(True,) * STEPS))
    assert torch.equal(run(pipe, name), plain)


@pytest.mark.parametrize("name", ["pixart", "wan"])
def test_an_answered_call_computes_nothing(name: str) -> None:
    pipe = tiny_pipeline(name)
    calls = counted(pipe)
    run(pipe, name)
    plain, calls[0] = calls[0], 0
    accelerate_pipeline(pipe, HALF)
    run(pipe, name)
    assert calls[0] * 2 == plain


@pytest.mark.parametrize("name", ["pixart", "flux", "wan"])
def test_weights_of_one_use_the_last_output_again(name: str) -> None:
    """What another pass, written for the tests, does by hand."""
    pipe = tiny_pipeline(name)
    rows = {step: {step - 1: 1.0} for step in range(1, STEPS, 2)}
    accelerate_pipeline(pipe, replace(HALF, weights=table(rows)))
    fitted = run(pipe, name)
    with PASSES.temporarily(EVERY_OTHER.name, EVERY_OTHER), CONFIGS.temporarily(EVERY_OTHER.name, EVERY_OTHER.config):
        accelerate_pipeline(pipe, EVERY_OTHER.config(n=2))
        assert torch.equal(run(pipe, name), fitted)


def test_latents_and_noise_are_what_the_denoiser_was_given() -> None:
    pipe = tiny_pipeline("flux")
    given: list[torch.Tensor] = []
    denoiser = find_denoisers(pipe)[0][1]
    original = denoiser.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        given.append(kwargs["hidden_states"].clone())
        return original(*args, **kwargs)

    denoiser.forward = forward
    stepped: list[torch.Tensor] = []
    step = pipe.scheduler.step

    def heard(output: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        stepped.append(output.clone())
        return step(output, *args, **kwargs)

    pipe.scheduler.step = heard
    weights = table({1: {0: 0.5, LATENTS: 0.25, NOISE: -2.0}})
    accelerate_pipeline(pipe, TrajectoryConfig(computed=(True, False, *(True,) * 6), weights=weights))
    run(pipe, "flux")
    assert len(given) == STEPS - 1 and len(stepped) == STEPS
    latents = given[0] + (pipe.scheduler.sigmas[1] - pipe.scheduler.sigmas[0]) * stepped[0]
    wanted = 0.5 * stepped[0] + 0.25 * latents - 2 * given[0]
    torch.testing.assert_close(stepped[1], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("name", ["sd", "pixart"])
def test_every_scheduler(name: str, scheduler: str) -> None:
    pipe = tiny_pipeline(name)
    make, settings = SCHEDULERS[scheduler]
    pipe.scheduler = make(**settings)
    accelerate_pipeline(pipe, TrajectoryConfig(speedup=2.0))
    made = run(pipe, name)
    assert torch.isfinite(made).all()
    assert effect(pipe).actual_frac == pytest.approx(0.5, abs=0.08)
    assert torch.equal(run(pipe, name), made)


def test_schedulers_that_begin_anew_at_every_step_are_refused() -> None:
    pipe = tiny_pipeline("sd")
    pipe.scheduler = diffusers.LCMScheduler()
    before = snapshot(pipe)
    with pytest.raises(UnsupportedModelError, match="adds new noise at every step"):
        accelerate_pipeline(pipe, HALF)
    assert_same(before, snapshot(pipe))


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.SCMScheduler(),
        diffusers.CMStochasticIterativeScheduler(),
        diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True),
        type("Mine", (diffusers.LCMScheduler,), {})(),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_whatever_adds_new_noise_at_every_step_is_refused(scheduler: Any) -> None:
    assert "new noise" in (why_not(scheduler) or "")


def test_flow_matching_without_new_noise_is_not_refused() -> None:
    assert why_not(diffusers.FlowMatchEulerDiscreteScheduler()) is None


@pytest.mark.parametrize("name", ["pixart", "wan"])
def test_only_what_is_read_later_is_kept_and_nothing_after_the_run(name: str) -> None:
    """Of four outputs the last one is never read; a plan that computes everything reads none."""
    pipe = tiny_pipeline(name)
    accelerate_pipeline(pipe, TrajectoryConfig(computed=(True,) * 8))
    run(pipe, name)
    assert effect(pipe).kept_bytes == 0
    remove_acceleration(pipe)
    held = []
    for computed in ((True, False) * 4, (True, False, True, False, True, False, True, True)):
        accelerate_pipeline(pipe, TrajectoryConfig(computed=computed))
        run(pipe, name)
        held.append(effect(pipe).kept_bytes)
        runtime = session_of(pipe).runtimes[0]
        assert not runtime.around_of("trajectory")._histories, "outputs are held after the run"
        remove_acceleration(pipe)
    assert held[0] > 0 and held[1] * 4 == held[0] * 3


def test_one_run_leaves_nothing_to_the_next() -> None:
    pipe = tiny_pipeline("pixart")
    accelerate_pipeline(pipe, HALF)
    alone = run(pipe, "pixart")
    run(pipe, "pixart", num_inference_steps=STEPS, guidance_scale=1.0)
    with pytest.raises(ZeroDivisionError):
        run(pipe, "pixart", callback=lambda *_: 1 / 0)
    assert torch.equal(run(pipe, "pixart"), alone)


def test_callbacks_see_every_step() -> None:
    pipe = tiny_pipeline("flux")
    accelerate_pipeline(pipe, HALF)
    seen: list[int] = []

    def note(pipe: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        seen.append(step)
        return kwargs

    run(pipe, "flux", callback_on_step_end=note)
    assert seen == list(range(STEPS))


def test_another_number_of_steps_is_warned_of_and_refused_when_strict() -> None:
    pipe = tiny_pipeline("pixart")
    accelerate_pipeline(pipe, HALF)
    with pytest.warns(AccelerationWarning, match="8 denoiser evaluations and the run has 12"):
        run(pipe, "pixart", num_inference_steps=12)
    assert effect(pipe).actual_frac == pytest.approx(0.5, abs=0.15)
    accelerate_pipeline(pipe, HALF, strict=True)
    with pytest.raises(PlanMismatchError):
        run(pipe, "pixart", num_inference_steps=12)


def test_other_noise_levels_are_warned_of() -> None:
    pipe = tiny_pipeline("flux")
    rows = {step: {step - 1: 1.0} for step in range(1, STEPS, 2)}
    levels = tuple(1 - step / STEPS / 2 for step in range(STEPS))
    accelerate_pipeline(pipe, replace(HALF, weights=table(rows), levels=levels))
    with pytest.warns(AccelerationWarning, match="noise levels"):
        moved = run(pipe, "flux")
    here, by_hand = noise_levels(pipe.scheduler), table(rows)
    for step in range(1, STEPS, 2):
        for own, sign in ((here, 1.0), (levels, -1.0)):
            for place, weight in theory_weights(own, list(range(0, step, 2)), step).items():
                by_hand[step, place] += sign * weight
    accelerate_pipeline(pipe, replace(HALF, weights=by_hand))
    torch.testing.assert_close(run(pipe, "flux"), moved)


def test_image_to_image_begins_in_the_middle() -> None:
    """Fitted weights name outputs that were never computed: theory answers from those that were."""
    text = tiny_pipeline("sd")
    pipe = diffusers.StableDiffusionImg2ImgPipeline(**text.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    call = {**tiny_call("sd"), "image": torch.rand(1, 3, 16, 16), "strength": 0.6, "num_inference_steps": STEPS}
    for key in ("height", "width"):
        call.pop(key, None)
    rows = {step: dict.fromkeys(range(0, step, 2), 1 / ((step + 1) // 2)) for step in range(1, STEPS, 2)}
    seen = []
    for plan in (replace(HALF, weights=table(rows)), HALF):
        accelerate_pipeline(pipe, plan)
        call["generator"] = torch.Generator().manual_seed(0)
        seen.append(torch.as_tensor(pipe(**call)[0]))
    assert torch.isfinite(seen[0]).all() and torch.equal(*seen)
    assert 0.2 < effect(pipe).actual_frac < 0.8


def test_goes_together_with_kept_modules() -> None:
    pipe = tiny_pipeline("pixart")
    reuse = StaticCacheConfig(schedule=GeneratorSpec("full_steps", n=4))
    accelerate_pipeline(pipe, [HALF, reuse])
    assert torch.isfinite(run(pipe, "pixart")).all()
    effects = summary(pipe).denoisers[0].effects
    assert effects["trajectory"].actual_frac == 0.5 and set(effects) == {"trajectory", "static_cache"}


def test_the_guard_computes_more_where_a_forecast_fails() -> None:
    pipe = tiny_pipeline("pixart")
    third = (True, False, False, True, False, False, True, False)
    rows = {step: {max(j for j in (0, 3, 6) if j < step): 1.0} for step in range(1, STEPS)}
    plan = TrajectoryConfig(computed=third, weights=table(rows), guard=(1e-9,) * STEPS)
    accelerate_pipeline(pipe, plan)
    off = run(pipe, "pixart")
    accelerate_pipeline(pipe, replace(plan, guard=(1e9,) * STEPS, guarded=True))
    assert torch.equal(run(pipe, "pixart"), off)
    trusted = effect(pipe).actual_frac
    accelerate_pipeline(pipe, replace(plan, guarded=True))
    with pytest.warns(AccelerationWarning, match="the guard of 'transformer' found evaluation 3"):
        run(pipe, "pixart")
    assert trusted == 5 / 8 and effect(pipe).actual_frac == 4 / 8
    assert "guard" in str(summary(pipe))
