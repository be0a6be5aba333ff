"""A run that is not what the plan was made for: said, resampled by the rule, or, in strict mode, refused."""

import warnings
from typing import Any

import diffusers
import pytest
import torch
from reference import config, every_second, replayed, tensor_of
from tiny import tiny_call, tiny_inputs, tiny_model, tiny_pipeline

from dit_accel import AccelerationPlan, accelerate_pipeline, summary
from dit_accel.errors import AccelerationWarning, PlanMismatchError
from dit_accel.families import resolve_family
from dit_accel.families.targets import find_targets
from dit_accel.plan.conditions import Conditions
from dit_accel.plan.fingerprint import Fingerprint, fingerprint
from dit_accel.schedules import GeneratorSpec, Schedule, resample

STEPS = 8
_NEGATIVE = {"negative_prompt_embeds": torch.zeros(1, 6, 12), "negative_pooled_prompt_embeds": torch.zeros(1, 10)}


def _run(pipe: Any, name: str, **more: Any) -> torch.Tensor:
    return tensor_of(pipe(**tiny_call(name, **{"num_inference_steps": STEPS, **more})))


@pytest.mark.parametrize("num_steps", [5, 12, 16])
def test_another_step_count_is_resampled_with_a_warning(num_steps: int) -> None:
    plain_pipe, pipe = tiny_pipeline("pixart"), tiny_pipeline("pixart")
    schedule = every_second(plain_pipe.transformer, STEPS)
    with replayed(plain_pipe.transformer, resample(schedule, num_steps)):
        expected = _run(plain_pipe, "pixart", num_inference_steps=num_steps)
    accelerate_pipeline(pipe, config(schedule))
    with pytest.warns(AccelerationWarning, match=rf"made for {STEPS} denoiser .* the run has {num_steps}"):
        assert torch.equal(_run(pipe, "pixart", num_inference_steps=num_steps), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error", AccelerationWarning)  # said once, not at every run
        _run(pipe, "pixart", num_inference_steps=num_steps)


def test_another_step_count_is_refused_in_strict_mode_and_leaves_the_pipeline_usable() -> None:
    pipe = tiny_pipeline("pixart")
    schedule = every_second(pipe.transformer, STEPS)
    accelerate_pipeline(pipe, config(schedule), strict=True)
    expected = _run(pipe, "pixart")
    for _ in range(2):
        with pytest.raises(PlanMismatchError, match=rf"made for {STEPS} denoiser evaluations and the run has 12"):
            _run(pipe, "pixart", num_inference_steps=12)
        assert torch.equal(_run(pipe, "pixart"), expected)


def test_a_generator_fits_any_step_count() -> None:
    pipe = accelerate_pipeline(tiny_pipeline("pixart"), config(GeneratorSpec("every_n", n=2)), strict=True)
    for num_steps in (5, 8, 13):
        _run(pipe, "pixart", num_inference_steps=num_steps)
        assert summary(pipe).denoisers[0].last_run.num_steps == num_steps


CONDITIONS = [
    pytest.param("flux", Conditions(num_steps=20), "denoiser evaluations: 8 instead of 20", id="steps"),
    pytest.param(
        "flux",
        Conditions(scheduler="EulerDiscreteScheduler"),
        "the scheduler: FlowMatchEulerDiscreteScheduler instead of EulerDiscreteScheduler",
        id="scheduler",
    ),
    pytest.param(
        "sd", Conditions(latent_size=(64, 64)), r"the latent size: \(8, 8\) instead of \(64, 64\)", id="size"
    ),
    pytest.param("flux", Conditions(latent_size=(64,)), r"the latent size: \(16,\) instead of \(64,\)", id="tokens"),
    pytest.param("flux", Conditions(guidance_scale=7.5), "the guidance scale: 3.5 instead of 7.5", id="guidance"),
    pytest.param(
        "flux", Conditions(true_cfg_scale=4.0), "the true guidance scale: 1.0 instead of 4.0", id="true-guidance"
    ),
    pytest.param(
        "wan22",
        Conditions(guidance_scale_2=3.0),
        "the second denoiser's guidance scale: 5.0 instead of 3.0",
        id="second-guidance",
    ),
]


@pytest.mark.parametrize(("name", "conditions", "words"), CONDITIONS)
def test_other_conditions(name: str, conditions: Conditions, words: str) -> None:
    plan = AccelerationPlan(name="mine", passes=(config(GeneratorSpec("every_n", n=2)),), conditions=conditions)
    pipe = accelerate_pipeline(tiny_pipeline(name), plan)
    with pytest.warns(AccelerationWarning, match=f"differs from what plan 'mine' was made for: (the )?{words}"):
        _run(pipe, name)
    strict = accelerate_pipeline(tiny_pipeline(name), plan, strict=True)
    for _ in range(2):
        with pytest.raises(PlanMismatchError, match=words):
            _run(strict, name)


def test_the_conditions_it_was_made_for() -> None:
    conditions = Conditions(
        num_steps=STEPS, scheduler="FlowMatchEulerDiscreteScheduler", latent_size=(16,), guidance_scale=3.5
    )
    plan = AccelerationPlan(passes=(config(GeneratorSpec("every_n", n=2)),), conditions=conditions)
    _run(accelerate_pipeline(tiny_pipeline("flux"), plan, strict=True), "flux")


@pytest.mark.parametrize(
    ("name", "more", "found"),
    [
        ("flux", {}, (3.5, 1.0, None)),
        ("flux", {"true_cfg_scale": 4.0}, (3.5, 1.0, None)),  # without a negative prompt it is not in force
        ("flux", {"true_cfg_scale": 4.0, **_NEGATIVE}, (3.5, 4.0, None)),
        ("wan22", {"guidance_scale": 3.0}, (3.0, None, 3.0)),
        ("wan22", {"guidance_scale": 3.0, "guidance_scale_2": 9.0}, (3.0, None, 9.0)),
        ("wan", {}, (5.0, None, None)),
        ("pixart", {}, (4.5, None, None)),
    ],
)
def test_every_guidance_scale_is_found(name: str, more: dict[str, Any], found: tuple[float | None, ...]) -> None:
    pipe = accelerate_pipeline(tiny_pipeline(name), "lossless")
    _run(pipe, name, **more)
    conditions = summary(pipe).denoisers[0].last_run.conditions
    assert (conditions.guidance_scale, conditions.true_cfg_scale, conditions.guidance_scale_2) == found


@pytest.mark.parametrize(
    ("name", "size"),
    [("pixart", (8, 8)), ("flux", (16,)), ("wan", (2, 8, 8)), ("cogvideox", (2, 8, 8)), ("z_image", (1, 8, 8))],
)
def test_latent_size_is_without_batch_and_channels(name: str, size: tuple[int, ...]) -> None:
    model = tiny_model(name)
    inputs = tiny_inputs(name, model)
    latents = inputs.get("hidden_states", inputs.get("x"))
    first = latents[0] if isinstance(latents, list) else latents
    assert resolve_family(model).latent_size(first.shape) == size


def test_another_model() -> None:
    own = tiny_pipeline("pixart")
    found = fingerprint(find_targets(own)[0])
    fits = AccelerationPlan(passes=(config(GeneratorSpec("every_n", n=2)),), fingerprints=(found,))
    accelerate_pipeline(own, fits, strict=True)
    deeper = diffusers.PixArtTransformer2DModel(**{**dict(own.transformer.config), "num_layers": 4})
    other = tiny_pipeline("pixart")
    other.transformer = deeper
    cases = [
        (tiny_pipeline("flux"), r"the plan is for a PixArtTransformer2DModel, this model is a FluxTransformer2DModel"),
        (other, r"another PixArtTransformer2DModel: its blocks or modules differ"),
    ]
    for pipe, words in cases:
        with pytest.raises(PlanMismatchError, match=words):
            accelerate_pipeline(pipe, fits)
    finetuned = AccelerationPlan(
        passes=fits.passes,
        fingerprints=(Fingerprint(model_class=found.model_class, sites=found.sites, config="0" * 16),),
    )
    fourth = tiny_pipeline("pixart")
    with pytest.raises(PlanMismatchError, match="another config; its measurements may not hold"):
        accelerate_pipeline(fourth, finetuned, strict=True)
    with pytest.warns(AccelerationWarning, match="another config; its measurements may not hold"):
        accelerate_pipeline(fourth, finetuned)


def test_a_schedule_for_sites_the_model_lacks() -> None:
    pipe = tiny_pipeline("pixart")
    with pytest.raises(PlanMismatchError, match=r"transformer: .*'blocks\.7\.ff'; the model has \d+, e\.g\."):
        accelerate_pipeline(pipe, config(Schedule(4, {"blocks.7.ff": "1010"})))


def test_summary_in_words() -> None:
    pipe = accelerate_pipeline(tiny_pipeline("pixart"), "balanced")
    assert "no run yet" in str(summary(pipe))
    _run(pipe, "pixart")
    text = str(summary(pipe))
    stats = summary(pipe).denoisers[0].last_run
    assert "plan 'balanced' (not certified): static_cache" in text
    assert f"reused {stats.actual_reuse} (planned {stats.planned_reuse})" in text
    assert f"computed {stats.actual_computed} of {stats.site_calls} module calls" in text
    assert "PixArtTransformer2DModel (pixart)" in text
