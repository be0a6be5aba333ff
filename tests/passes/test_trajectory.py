"""Calls answered from earlier ones: on every kind of pipeline, under every scheduler, undone without a trace."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from every_other import PASS as EVERY_OTHER
from snapshot import assert_same, snapshot
from tiny import tiny_call, tiny_pipeline

from dit_accel import (
    AccelerationPlan,
    GeneratorSpec,
    StaticCacheConfig,
    TrajectoryConfig,
    accelerate_pipeline,
    remove_acceleration,
    summary,
    to_scheduler,
)
from dit_accel.errors import AccelerationWarning, ConfigError, PlanMismatchError, UnsupportedModelError
from dit_accel.families.pipeline import find_denoisers
from dit_accel.passes.base import PASSES
from dit_accel.passes.trajectory.config import LATENTS, NOISE
from dit_accel.plan.config import CONFIGS

STEPS = 8
HALF = TrajectoryConfig(computed=(True, False) * 4)


def run(pipe: Any, name: str, **more: Any) -> torch.Tensor:
    first = pipe(**tiny_call(name, **{"num_inference_steps": STEPS, **more}))[0]
    return first if isinstance(first, torch.Tensor) else torch.stack(list(first))


def effect(pipe: Any, denoiser: int = 0) -> Any:
    return summary(pipe).denoisers[denoiser].effects["trajectory"]


def counted(pipe: Any) -> list[int]:
    """Counts what the first denoiser's first block really computes."""
    calls = [0]

    def count(*_: Any) -> None:
        calls[0] += 1

    denoiser = find_denoisers(pipe)[0][1]
    layers = [module for module in denoiser.modules() if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)]
    layers[0].register_forward_hook(count)
    return calls


def table(rows: dict[int, dict[int, float]], steps: int = STEPS) -> torch.Tensor:
    weights = torch.zeros(steps, steps + 2, dtype=torch.float64)
    for step, row in rows.items():
        for place, weight in row.items():
            weights[step, place] = weight
    return weights


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


SCHEDULERS = {
    "ddim": (diffusers.DDIMScheduler, {}),
    "ddpm": (diffusers.DDPMScheduler, {}),
    "dpm++2m": (diffusers.DPMSolverMultistepScheduler, {}),
    "sde-dpm++2m": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "euler-a": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "unipc": (diffusers.UniPCMultistepScheduler, {}),
    "pndm": (diffusers.PNDMScheduler, {"skip_prk_steps": True}),
    "heun": (diffusers.HeunDiscreteScheduler, {}),
}


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
        assert torch.isfinite(run(pipe, "flux")).all()


def test_image_to_image_begins_in_the_middle() -> None:
    """Fitted weights name outputs that were never computed: theory answers from those that were."""
    text = tiny_pipeline("sd")
    pipe = diffusers.StableDiffusionImg2ImgPipeline(**text.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    call = {**tiny_call("sd"), "image": torch.rand(1, 3, 16, 16), "strength": 0.6, "num_inference_steps": STEPS}
    for key in ("height", "width"):
        call.pop(key, None)
    rows = {step: dict.fromkeys(range(0, step, 2), 1 / ((step + 1) // 2)) for step in range(1, STEPS, 2)}
    accelerate_pipeline(pipe, replace(HALF, weights=table(rows)))
    assert torch.isfinite(torch.as_tensor(pipe(**call)[0])).all()
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


def by_guidance() -> TrajectoryConfig:
    """Of fits at scales 2, 4 and 8: the last output, the one before, and half of the last one."""
    tables = [
        table({step: {max(0, step - 1 - back): size} for step in range(1, STEPS, 2)})
        for back, size in ((0, 1.0), (2, 1.0), (0, 0.5))
    ]
    return replace(HALF, weights=tables[1], guidance=(2, 4, 8), guided_weights=torch.stack(tables))


def test_between_guidance_scales_the_weights_are_interpolated() -> None:
    config = by_guidance()
    assert config.guided_weights is not None
    below, own, above = config.guided_weights
    wanted = {2: below, 3: (below + own) / 2, 4: own, 7: own / 4 + above * 3 / 4, 8: above}
    wanted |= {1: 1.5 * below - 0.5 * own, -10: 2 * below - own, 12: 2 * above - own, 99: 2 * above - own}
    for scale, table in wanted.items():
        torch.testing.assert_close(config.weights_at(scale), table)
    assert config.weights_at(None) is config.weights
    assert config.at_guidance(3).guidance == () and torch.equal(config.at_guidance(3).weights, config.weights_at(3))


@pytest.mark.parametrize("name", ["pixart", "sd", "flux", "wan"])
def test_a_run_takes_the_weights_of_its_guidance_scale(name: str) -> None:
    pipe, config = tiny_pipeline(name), by_guidance()
    for scale in (3.0, 4.0, 6.5):
        accelerate_pipeline(pipe, config, strict=True)
        interpolated = run(pipe, name, guidance_scale=scale)
        accelerate_pipeline(pipe, config.at_guidance(scale))
        assert torch.equal(run(pipe, name, guidance_scale=scale), interpolated)


def test_a_second_expert_has_a_guidance_scale_of_its_own() -> None:
    pipe = tiny_pipeline("wan22")
    accelerate_pipeline(pipe, by_guidance())
    with pytest.warns(AccelerationWarning, match="of 'transformer_2' is 9, and the trajectory plan was fitted from 2"):
        run(pipe, "wan22", guidance_scale=3.0, guidance_scale_2=9.0)


def test_beyond_the_guidance_scales_it_warns_or_refuses() -> None:
    pipe = tiny_pipeline("pixart")
    accelerate_pipeline(pipe, by_guidance())
    with pytest.warns(AccelerationWarning, match="is 9, and the trajectory plan was fitted from 2 to 8"):
        assert torch.isfinite(run(pipe, "pixart", guidance_scale=9.0)).all()
    accelerate_pipeline(pipe, by_guidance(), strict=True)
    with pytest.raises(PlanMismatchError, match="fitted from 2 to 8"):
        run(pipe, "pixart", guidance_scale=1.5)
    with pytest.raises(ConfigError, match="does not see the scale"):
        to_scheduler(by_guidance(), pipe.scheduler)


@pytest.mark.parametrize(("name", "channels"), [("pixart", 4), ("flux", 16), ("wan", 4)])
def test_filters_mix_the_channels_of_the_last_output(name: str, channels: int) -> None:
    """A filter that only scales is the same as a greater weight, in both forms."""
    pipe = tiny_pipeline(name)
    rows = {step: {step - 1: 0.7} for step in range(1, STEPS, 2)}
    heavier = {step: {step - 1: 1.2} for step in range(1, STEPS, 2)}
    filters = torch.zeros(STEPS, channels, channels, dtype=torch.float64)
    filters[1::2] = 0.5 * torch.eye(channels)
    config = replace(HALF, weights=table(rows), filters=filters)
    made = []
    for plan in (replace(HALF, weights=table(heavier)), config):
        accelerate_pipeline(pipe, plan)
        made.append(run(pipe, name))
        remove_acceleration(pipe)
    torch.testing.assert_close(made[1], made[0], rtol=1e-3, atol=1e-3)
    filters[1::2, 0, 1] = 0.5
    accelerate_pipeline(pipe, replace(config, filters=filters))
    mixed = run(pipe, name)
    remove_acceleration(pipe)
    assert not torch.allclose(mixed, made[0], rtol=1e-3, atol=1e-3)
    pipe.scheduler = to_scheduler(replace(config, filters=filters), pipe.scheduler)
    torch.testing.assert_close(run(pipe, name), mixed, rtol=2e-3, atol=2e-3)


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
    pipe = tiny_pipeline("pixart")
    pipe.scheduler = to_scheduler(HALF, pipe.scheduler)
    with pytest.raises(PlanMismatchError, match="8 denoiser evaluations and the run has 12"):
        run(pipe, "pixart", num_inference_steps=12)


def test_a_plan_is_saved_and_read(tmp_path: Path) -> None:
    rows = {step: {step - 1: 0.1 * step, LATENTS: -0.3} for step in range(1, STEPS, 2)}
    config = TrajectoryConfig(
        computed=HALF.computed, weights=table(rows), levels=tuple(range(STEPS)), guard=(1.0,) * 8, guarded=True
    )
    assert "guarded" not in replace(config, guarded=False).to_dict()  # older plans keep their digest
    both = torch.stack([table(rows), 2 * table(rows)])
    ranged = replace(config, guidance=(2, 4), guided_weights=both)
    AccelerationPlan(passes=(ranged,)).save_pretrained(tmp_path / "ranged")
    assert AccelerationPlan.from_pretrained(tmp_path / "ranged").passes == (ranged,) and ranged != config
    AccelerationPlan(passes=(config,)).save_pretrained(tmp_path)
    read = AccelerationPlan.from_pretrained(tmp_path)
    assert isinstance(read.passes[0], TrajectoryConfig)
    assert read.passes[0].to_dict() == config.to_dict() and torch.equal(read.passes[0].weights, config.weights)
    pipe = tiny_pipeline("pixart")
    accelerate_pipeline(pipe, config)
    made = run(pipe, "pixart")
    accelerate_pipeline(pipe, read)
    assert torch.equal(run(pipe, "pixart"), made)


APART = {"computed": (True, False), "weights": torch.zeros(2, 4), "unconditional": torch.zeros(2, 4)}


def halved() -> TrajectoryConfig:
    """Every other evaluation whole, of the others the conditional branch alone: the last difference is kept."""
    none = torch.zeros(STEPS, STEPS + 2, dtype=torch.float64)
    cross = torch.zeros(STEPS, 2 * STEPS + 2, dtype=torch.float64)
    for step in range(1, STEPS, 2):
        cross[step, [step - 1, STEPS + step - 1, STEPS + step]] = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    conditional = tuple(step % 2 == 1 for step in range(STEPS))
    return replace(HALF, weights=none, unconditional=none, conditional=conditional, cross=cross)


def test_half_calls_and_kept_modules_exclude_each_other_in_one_batch() -> None:
    reuse = StaticCacheConfig(schedule=GeneratorSpec("full_steps", n=4))
    with pytest.raises(ConfigError, match="decides what is computed in each call"):
        accelerate_pipeline(tiny_pipeline("pixart"), [halved(), reuse])


@pytest.mark.parametrize("name", ["pixart", "wan"])
def test_without_guidance_there_are_no_half_calls(name: str) -> None:
    pipe = tiny_pipeline(name)
    accelerate_pipeline(pipe, halved())
    run(pipe, name)
    assert effect(pipe).actual_frac == effect(pipe).planned_frac == 0.25
    plain = tiny_pipeline(name)
    assert torch.equal(run(pipe, name, guidance_scale=1.0), run(plain, name, guidance_scale=1.0))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"computed": (False, True)}, "the first one true"),
        ({"computed": ()}, "true or false"),
        ({"computed": (True, False), "weights": torch.zeros(2, 3)}, r"\[2, 4\]"),
        ({"computed": (True, False), "weights": torch.full((2, 4), float("nan"))}, "not finite"),
        ({"computed": (True, False, False), "weights": table({2: {1: 1.0}}, 3)}, "not computed"),
        ({"computed": (True, True), "weights": table({0: {1: 1.0}}, 2)}, "not yet"),
        ({"computed": (True, False), "levels": (1.0,)}, "1 levels for 2"),
        ({"computed": (True, False), "guard": (1.0, 1.0)}, "there are none"),
        ({"computed": (True, False), "guarded": True}, "needs limits in 'guard'"),
        ({"computed": (True, False), "guidance": (1.0, 2.0)}, "take 'weights' and two scales"),
        (
            {"computed": (True,), "weights": torch.zeros(1, 3), "guidance": (2.0, 1.0), "guided_weights": None},
            "take 'weights' and two scales",
        ),
        (
            {
                "computed": (True,),
                "weights": torch.zeros(1, 3),
                "guidance": (2.0, 1.0),
                "guided_weights": torch.zeros(2, 1, 3),
            },
            "must rise",
        ),
        (
            {
                "computed": (True,),
                "weights": torch.zeros(1, 3),
                "guidance": (1.0, 2.0),
                "guided_weights": torch.zeros(1, 3),
            },
            r"\[2, 1, 3\]",
        ),
        (
            {"computed": (True,), "weights": torch.zeros(1, 3), "filters": torch.zeros(1, 2, 3)},
            r"\[1, C, C\], got \[1, 2, 3\]",
        ),
        ({"computed": (True,), "filters": torch.zeros(1, 2, 2)}, "filters take weights"),
        ({"computed": (True,), "unconditional": torch.zeros(1, 3)}, "take those of the conditional branch"),
        ({**APART, "conditional": (False, True)}, "take 'unconditional' and 'cross'"),
        ({**APART, "conditional": (False, False), "cross": torch.zeros(2, 6)}, "take 'unconditional' and 'cross'"),
        ({**APART, "conditional": (True, False), "cross": torch.zeros(2, 6)}, "computed whole or"),
        ({**APART, "conditional": (True,), "cross": torch.zeros(2, 6)}, "1 conditional for 2"),
        ({**APART, "conditional": (False, True), "cross": torch.zeros(2, 4)}, r"\[2, 6\], got \[2, 4\]"),
        ({**APART, "conditional": (False, True), "cross": torch.eye(2, 6)}, "not computed, or not yet"),
        ({"guarded": "yes"}, "true or false, got 'yes'"),
        ({"weights": torch.zeros(2, 4)}, "belong to 'computed'"),
        ({"speedup": 0.5}, "at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TrajectoryConfig(**fields)
