"""What always holds, on the pipeline that ships: real weights, text encoder, tokenizer, autoencoder, guidance."""

import copy
from typing import Any

import diffusers
import pytest
import torch

from dit_accel import (
    GeneratorSpec,
    Schedule,
    StaticCacheConfig,
    accelerate_pipeline,
    load_embedded,
    remove_acceleration,
    summary,
)
from dit_accel.errors import PlanMismatchError

STEPS = 6
SCHEDULERS = [f"{name}Scheduler" for name in ("DDIM", "EulerDiscrete", "HeunDiscrete", "PNDM", "UniPCMultistep")]
EVERY_2 = StaticCacheConfig(schedule=GeneratorSpec("every_n", n=2))
NOTHING = StaticCacheConfig(schedule=Schedule(STEPS, {}), invariants=False)


@pytest.fixture(scope="module")
def loaded() -> Any:
    pipe = load_embedded("emoji-pixart")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pipe(loaded: Any) -> Any:
    yield loaded
    if "_dit_accel" in vars(loaded):
        remove_acceleration(loaded)


def draw(pipe: Any, prompt: str | list[str] = "a red apple", seed: int = 0, **overrides: Any) -> torch.Tensor:
    call = {"num_inference_steps": STEPS, "output_type": "pt", **overrides}
    return pipe(prompt, generator=torch.Generator("cpu").manual_seed(seed), **call).images


def test_presets_reuse_what_they_plan_and_change_little(pipe: Any) -> None:
    plain = draw(pipe, num_inference_steps=20)
    errors = []
    for preset in ("balanced", "fast", "turbo"):
        accelerate_pipeline(pipe, preset, strict=True)
        errors.append(float((draw(pipe, num_inference_steps=20) - plain).square().mean()))
        effect = summary(pipe).denoisers[0].effects["trajectory"]
        assert (
            effect.actual_frac == pytest.approx(effect.planned_frac)
            and effect.planned_frac >= 0.5
            and effect.shortfall is None
        )
    assert 0 < errors[0] < errors[1] < errors[2] < 0.01


def test_nothing_leaks_between_runs(pipe: Any) -> None:
    accelerate_pipeline(pipe, EVERY_2, strict=True)
    alone = draw(pipe, "a penguin", seed=3)
    draw(pipe, "a red apple", seed=1)
    draw(pipe, ["a frog face", "a rose"], seed=2, num_inference_steps=5)
    draw(pipe, "a rose", guidance_scale=1.0)
    assert torch.equal(draw(pipe, "a penguin", seed=3), alone)


def test_nothing_leaks_after_an_exception(pipe: Any) -> None:
    accelerate_pipeline(pipe, EVERY_2, strict=True)
    alone = draw(pipe)

    def fail(step: int, timestep: Any, latents: Any) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(pipe, "a penguin", callback=fail, callback_steps=1)
    assert torch.equal(draw(pipe), alone)


def test_a_batch_is_its_images(pipe: Any) -> None:
    accelerate_pipeline(pipe, EVERY_2, strict=True)
    prompts = ["a red apple", "a penguin"]
    seeds = [torch.Generator("cpu").manual_seed(seed) for seed in (0, 1)]
    both = pipe(prompts, generator=seeds, num_inference_steps=STEPS, output_type="pt").images
    for index, prompt in enumerate(prompts):
        torch.testing.assert_close(both[index : index + 1], draw(pipe, prompt, seed=index), rtol=1e-3, atol=1e-3)


def test_two_pipelines_do_not_see_each_other(pipe: Any) -> None:
    other = copy.deepcopy(pipe)
    other.set_progress_bar_config(disable=True)
    plain = draw(other)
    accelerate_pipeline(pipe, "turbo")
    draw(pipe)
    assert torch.equal(draw(other), plain)


@pytest.mark.parametrize(
    "scheduler",
    ["DDIMScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler", "PNDMScheduler", "UniPCMultistepScheduler"],
)
def test_other_schedulers(pipe: Any, scheduler: str) -> None:
    own = pipe.scheduler
    accelerate_pipeline(pipe, EVERY_2, strict=True)
    try:
        pipe.scheduler = getattr(diffusers, scheduler).from_config(own.config)
        draw(pipe)
        run = summary(pipe).denoisers[0].last_run
        assert run.num_steps == run.calls == len(pipe.scheduler.timesteps)
        assert run.actual_reuse == run.planned_reuse > 0
        remove_acceleration(pipe)
        plain = draw(pipe)
        accelerate_pipeline(pipe, "lossless", strict=True)
        assert torch.equal(draw(pipe), plain)
    finally:
        pipe.scheduler = own


def test_lora_is_followed(pipe: Any) -> None:
    """Adapters replace the very layers whose output is kept; diffusers has no loader for PixArt's, peft has."""
    from peft import LoraConfig, inject_adapter_in_model

    own = pipe.transformer
    pipe.transformer = copy.deepcopy(own)
    try:
        accelerate_pipeline(pipe, "lossless", strict=True)
        without = draw(pipe)
        torch.manual_seed(0)
        config = LoraConfig(r=2, init_lora_weights=False, target_modules=["to_k", "to_q", "to_v"])
        inject_adapter_in_model(config, pipe.transformer)
        with_lora = draw(pipe)
        assert not torch.equal(with_lora, without)
        remove_acceleration(pipe)
        assert torch.equal(draw(pipe), with_lora)
    finally:
        pipe.transformer = own


def test_a_fixed_schedule_is_resampled_or_refused(pipe: Any) -> None:
    fixed = StaticCacheConfig(schedule=Schedule(20, {"blocks.3.ff": "10" * 10}))
    accelerate_pipeline(pipe, fixed)
    with pytest.warns(UserWarning, match="made for 20 denoiser evaluations and the run has 40"):
        draw(pipe, num_inference_steps=40, output_type="latent")
    accelerate_pipeline(pipe, fixed, strict=True)
    with pytest.raises(PlanMismatchError, match="20 denoiser evaluations"):
        draw(pipe)
