"""Encoder propagation in runs of all kinds: schedulers, callbacks, guidance, image-to-image, control, prior noise."""

import itertools
from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from propagation import KEYS, SERIAL, STEPS, assert_near, effect, run
from tiny import tiny_call, tiny_inputs, tiny_pipeline

from dit_accel import (
    EncoderPropagationConfig,
    accelerate_pipeline,
    remove_acceleration,
)
from dit_accel.errors import AccelerationWarning

SCHEDULERS = {
    "ddim": (diffusers.DDIMScheduler, {}),
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "euler-karras": (diffusers.EulerDiscreteScheduler, {"use_karras_sigmas": True}),
    "euler-a": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "dpm++2m": (diffusers.DPMSolverMultistepScheduler, {}),
    "pndm": (diffusers.PNDMScheduler, {"skip_prk_steps": True}),
    "heun": (diffusers.HeunDiscreteScheduler, {}),
    "lcm": (diffusers.LCMScheduler, {"original_inference_steps": 100}),
}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler(scheduler: str) -> None:
    pipe = tiny_pipeline("sd")
    make, settings = SCHEDULERS[scheduler]
    pipe.scheduler = make(**settings)
    config = EncoderPropagationConfig(every=3)
    accelerate_pipeline(pipe, replace(config, max_parallel=1))
    serial = run(pipe, "sd")
    assert effect(pipe).actual_frac > 0.5
    accelerate_pipeline(pipe, config)
    assert_near(run(pipe, "sd"), serial)


def test_inputs_are_scaled_by_the_scheduler_at_key_steps() -> None:
    """Euler's latents are divided before the denoiser sees them; the authors' code for Stable Diffusion forgets it."""
    pipe = tiny_pipeline("sdxl")
    given: list[torch.Tensor] = []
    stepped: list[tuple[torch.Tensor, torch.Tensor]] = []
    forward, step = pipe.unet.conv_in.forward, pipe.scheduler.step

    def watched(x: torch.Tensor) -> torch.Tensor:
        given.append(x.clone())
        return forward(x)

    def heard(output: torch.Tensor, t: torch.Tensor, sample: torch.Tensor, **more: Any) -> Any:
        stepped.append((sample.clone(), pipe.scheduler.sigmas[len(stepped)].clone()))
        return step(output, t, sample, **more)

    pipe.unet.conv_in.forward, pipe.scheduler.step = watched, heard
    accelerate_pipeline(pipe, KEYS)
    run(pipe, "sdxl")
    assert len(given) == 3 and len(stepped) == STEPS
    for seen, key in zip(given, (0, 1, 4), strict=True):
        latents, sigma = stepped[key]
        torch.testing.assert_close(seen[:1], latents / (1 + sigma**2).sqrt(), rtol=1e-5, atol=1e-5)


def test_a_decoder_does_not_look_at_its_steps_latents() -> None:
    pipe = tiny_pipeline("sd")
    accelerate_pipeline(pipe, replace(KEYS, key_steps=(0,)))
    outputs: list[list[torch.Tensor]] = []
    step = pipe.scheduler.step

    def heard(output: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        outputs[-1].append(output.clone())
        return step(output, *args, **kwargs)

    pipe.scheduler.step = heard

    def disturb(pipe: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {"latents": kwargs["latents"] + step}

    for callback in (None, disturb):
        outputs.append([])
        run(pipe, "sd", callback_on_step_end=callback)
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))


def test_callbacks_see_every_step_and_an_interrupted_run_leaves_nothing() -> None:
    pipe = tiny_pipeline("sd")
    accelerate_pipeline(pipe, KEYS)
    alone = run(pipe, "sd")
    seen: list[int] = []

    def stop(pipe: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        seen.append(step)
        pipe._interrupt = step == 2
        return kwargs

    run(pipe, "sd", callback_on_step_end=stop)
    assert seen == [0, 1, 2]
    with pytest.raises(ZeroDivisionError):
        run(pipe, "sd", callback_on_step_end=lambda *_: 1 / 0)
    run(pipe, "sd", seed=7, height=64, width=128)
    assert torch.equal(run(pipe, "sd"), alone)


def test_guidance_switched_off_half_way_begins_anew() -> None:
    pipe = tiny_pipeline("sd")
    accelerate_pipeline(pipe, replace(KEYS, key_steps=(0,)))

    def stop_guidance(pipe: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step == 3:
            pipe._guidance_scale = 0.0
            return {"prompt_embeds": kwargs["prompt_embeds"][-1:]}
        return {}

    run(
        pipe,
        "sd",
        callback_on_step_end=stop_guidance,
        callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"],
    )
    assert effect(pipe).actual_frac == 1 - 2 / 8


def test_image_to_image_begins_with_a_key_step() -> None:
    pipe = tiny_pipeline("sd")
    pipe = diffusers.StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    call = tiny_call("sd", num_inference_steps=STEPS)
    call = {key: value for key, value in call.items() if key not in ("height", "width")}
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))

    def draw() -> torch.Tensor:
        call["generator"].manual_seed(0)
        return torch.as_tensor(pipe(**call, image=image, strength=0.75).images)

    plain = draw()
    accelerate_pipeline(pipe, replace(KEYS, key_steps=(0, 6), max_parallel=1))
    serial = draw()
    assert effect(pipe).actual_frac == 1 - 2 / 6
    accelerate_pipeline(pipe, replace(KEYS, key_steps=(0, 6)))
    assert_near(draw(), serial)
    assert not torch.equal(serial, plain)


def test_kept_outputs_that_native_code_modifies_are_copies() -> None:
    """FreeU writes into what the mid block gave."""
    pipe = tiny_pipeline("sd")
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
    accelerate_pipeline(pipe, replace(KEYS, max_parallel=8))
    wide = run(pipe, "sd")
    accelerate_pipeline(pipe, SERIAL)
    assert_near(run(pipe, "sd"), wide)


def test_guidance_in_three_parts_of_a_batch() -> None:
    """Perturbed-attention guidance splits the batch inside of attentions; items of several steps must not mix."""
    parts = tiny_pipeline("sd").components
    pipe = diffusers.StableDiffusionPAGPipeline(
        **parts, pag_applied_layers=["up_blocks.1.attentions.0"], requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    accelerate_pipeline(pipe, SERIAL)
    serial = run(pipe, "sd", pag_scale=2.0)
    accelerate_pipeline(pipe, replace(KEYS, max_parallel=3))
    assert_near(run(pipe, "sd", pag_scale=2.0), serial)
    assert not torch.equal(run(pipe, "sd", pag_scale=0.0), serial)


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2])
def test_control_residuals_are_those_of_the_key_step(batch: int) -> None:
    """A bare UNet with residuals that a ControlNet would give, other ones at each step."""
    unet, scheduler = tiny_pipeline("sd").unet, diffusers.DDIMScheduler()
    inputs = {key: value for key, value in tiny_inputs("sd", unet, batch=batch).items() if key != "timestep"}
    latents_name = next(iter(inputs))
    shapes: list[torch.Size] = []
    handle = unet.conv_in.register_forward_hook(lambda m, a, out: shapes.append(out.shape))
    skips = [handle]
    skips += [
        b.register_forward_hook(lambda m, a, out: shapes.extend(s.shape for s in out[1])) for b in unet.down_blocks
    ]
    middle: list[torch.Size] = []
    skips.append(unet.mid_block.register_forward_hook(lambda m, a, out: middle.append(out.shape)))
    unet(**inputs, timestep=torch.tensor(1))
    for each in skips:
        each.remove()

    def draw(fixed: bool) -> torch.Tensor:
        scheduler.set_timesteps(STEPS)
        latents = inputs[latents_name].clone()
        for step, t in enumerate(scheduler.timesteps):
            key = max(key for key in (0, 1, 4) if key <= step) if fixed else step
            generator = torch.Generator().manual_seed(key)
            down = tuple(torch.randn(shape, generator=generator) for shape in shapes)
            mid = torch.randn(middle[0], generator=generator)
            residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
            output = unet(**{**inputs, latents_name: latents}, timestep=t, **residuals)[0]
            latents = scheduler.step(output, t, latents)[0]
        return latents

    accelerate_pipeline(unet, SERIAL, scheduler=scheduler)
    by_hand = draw(fixed=True)
    accelerate_pipeline(unet, KEYS, scheduler=scheduler)
    assert_near(draw(fixed=False), by_hand)
    remove_acceleration(unet)


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_prior_noise(name: str) -> None:
    """By hand: the latents that the scheduler steps from, against those without."""
    pipe = tiny_pipeline(name)
    sampled: list[list[torch.Tensor]] = []
    step = pipe.scheduler.step

    def heard(output: torch.Tensor, t: Any, sample: torch.Tensor, **more: Any) -> Any:
        sampled[-1].append(sample.clone())
        return step(output, t, sample, **more)

    pipe.scheduler.step = heard
    for share in (0.0, 0.1):
        accelerate_pipeline(pipe, replace(KEYS, prior_noise=share, prior_noise_from=0.75))
        sampled.append([])
        run(pipe, name)
    without, noisy = sampled
    assert all(torch.equal(a, b) for a, b in itertools.islice(zip(without, noisy, strict=True), 6))
    sigma = pipe.scheduler.sigmas[6] if name == "sdxl" else torch.tensor(0.0)
    unit = without[0] / pipe.scheduler.init_noise_sigma
    torch.testing.assert_close(noisy[6] - without[6], 0.1 * unit * (1 + sigma**2).sqrt(), rtol=1e-3, atol=1e-4)
    accelerate_pipeline(pipe, KEYS)
    sampled.append([])
    run(pipe, name)
    assert all(torch.equal(a, b) for a, b in zip(without, sampled[-1], strict=True))


def test_prior_noise_is_not_defined_for_flows() -> None:
    pipe = tiny_pipeline("sd3")
    accelerate_pipeline(pipe, SERIAL)
    without = run(pipe, "sd3")
    accelerate_pipeline(pipe, replace(SERIAL, prior_noise=0.003))
    with pytest.warns(AccelerationWarning, match="adds no prior noise"):
        assert torch.equal(run(pipe, "sd3"), without)
