"""Encoder propagation: in batches as one by one, every step its own output, undone without a trace."""

import itertools
from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from snapshot import assert_same, snapshot
from tiny import tiny_call, tiny_pipeline

from dit_accel import (
    EncoderPropagationConfig,
    GeneratorSpec,
    StaticCacheConfig,
    TrajectoryConfig,
    accelerate_pipeline,
    remove_acceleration,
    summary,
)
from dit_accel.errors import AccelerationWarning, ConfigError, PlanMismatchError, UnsupportedModelError
from dit_accel.families.pipeline import find_denoisers
from dit_accel.families.targets import find_targets
from dit_accel.passes.encoder_propagation.encoder import encoder_sites
from dit_accel.plan.config import config_from_dict

STEPS = 8
KEYS = EncoderPropagationConfig(key_steps=(0, 1, 4), num_steps=STEPS)
SERIAL = replace(KEYS, max_parallel=1)
NAMES = ["sd", "sdxl", "pixart", "dit"]


def run(pipe: Any, name: str, **more: Any) -> torch.Tensor:
    first = pipe(**tiny_call(name, **{"num_inference_steps": STEPS, **more}))[0]
    return first if isinstance(first, torch.Tensor) else torch.stack(list(first))


def assert_near(one: torch.Tensor, other: torch.Tensor) -> None:
    """Equal but for rounding, of which guidance and eight steps of random weights make more."""
    assert (one - other).abs().max() < 1e-3 * other.abs().max()


def effect(pipe: Any) -> Any:
    return summary(pipe).denoisers[0].effects["encoder_propagation"]


class Counter:
    """Items that modules of a denoiser were called with, call by call; put on before acceleration."""

    def __init__(self, pipe: Any, *paths: str) -> None:
        denoiser = find_denoisers(pipe)[0][1]
        self.items: dict[str, list[int]] = {path: [] for path in paths}
        for path in paths:
            module = denoiser.get_submodule(path)
            original = module.forward

            def forward(*args: Any, path: str = path, original: Any = original, **kwargs: Any) -> Any:
                first = args[0] if args else next(iter(kwargs.values()))
                self.items[path].append(len(first))
                return original(*args, **kwargs)

            module.forward = forward


@pytest.mark.parametrize("name", NAMES)
def test_saves_encoder_runs_and_is_undone_exactly(name: str) -> None:
    pipe = tiny_pipeline(name)
    plain, before = run(pipe, name), snapshot(pipe)
    accelerate_pipeline(pipe, KEYS)
    made = run(pipe, name)
    assert torch.isfinite(made).all() and not torch.equal(made, plain)
    assert effect(pipe).actual_frac == effect(pipe).planned_frac == 5 / 8
    assert torch.equal(run(pipe, name), made)
    remove_acceleration(pipe)
    assert_same(before, snapshot(pipe))
    assert torch.equal(run(pipe, name), plain)


@pytest.mark.parametrize("name", NAMES)
def test_all_steps_key_steps_changes_nothing(name: str) -> None:
    pipe = tiny_pipeline(name)
    plain = run(pipe, name)
    accelerate_pipeline(pipe, EncoderPropagationConfig(every=1))
    assert torch.equal(run(pipe, name), plain)


@pytest.mark.parametrize("width", [2, 3, 8])
@pytest.mark.parametrize("name", NAMES)
def test_in_batches_as_one_by_one(name: str, width: int) -> None:
    pipe = tiny_pipeline(name)
    accelerate_pipeline(pipe, SERIAL)
    serial = run(pipe, name)
    accelerate_pipeline(pipe, replace(KEYS, max_parallel=width))
    assert_near(run(pipe, name), serial)


@pytest.mark.parametrize("keys", [(0,), (0, 7), (0, 2, 3, 4, 5), (0, 3, 6)], ids=str)
def test_segments_of_every_length(keys: tuple[int, ...]) -> None:
    pipe = tiny_pipeline("sd")
    accelerate_pipeline(pipe, EncoderPropagationConfig(key_steps=keys, max_parallel=1))
    serial = run(pipe, "sd")
    accelerate_pipeline(pipe, EncoderPropagationConfig(key_steps=keys, max_parallel=3))
    assert_near(run(pipe, "sd"), serial)


def test_one_by_one_is_what_site_caching_does() -> None:
    """An older implementation of the same, which shares none of the code."""
    pipe = tiny_pipeline("sd")
    spec = GeneratorSpec("encoder_propagation", key_steps=[0, 1, 4])
    accelerate_pipeline(pipe, StaticCacheConfig(schedule=spec, invariants=False))
    cached = run(pipe, "sd")
    accelerate_pipeline(pipe, SERIAL)
    assert torch.equal(run(pipe, "sd"), cached)


def test_the_encoder_runs_for_the_key_steps_items_and_the_decoder_for_all() -> None:
    pipe = tiny_pipeline("sd")
    seen = Counter(pipe, "conv_in", "down_blocks.1", "mid_block", "conv_out")
    accelerate_pipeline(pipe, replace(KEYS, max_parallel=3))
    run(pipe, "sd")
    # guidance makes two items a step; key steps 0 (alone), 1 to 3, and 4 to 7 in two batches
    assert all(seen.items[path] == [2, 2, 2] for path in ("conv_in", "down_blocks.1", "mid_block"))
    assert seen.items["conv_out"] == [2, 6, 6, 2]
    assert summary(pipe).denoisers[0].last_run.answered == 4


def test_one_by_one_the_decoder_runs_at_every_step() -> None:
    pipe = tiny_pipeline("sd")
    seen = Counter(pipe, "conv_in", "conv_out")
    accelerate_pipeline(pipe, SERIAL)
    run(pipe, "sd")
    assert seen.items == {"conv_in": [2] * 3, "conv_out": [2] * 8}


def test_a_transformers_first_blocks_are_its_encoder() -> None:
    pipe = tiny_pipeline("pixart")
    seen = Counter(pipe, "transformer_blocks.0", "transformer_blocks.1", "transformer_blocks.2")
    accelerate_pipeline(pipe, replace(KEYS, first_blocks=2))
    run(pipe, "pixart")
    assert list(seen.items.values()) == [[2, 2, 2], [2, 2, 2], [2, 6, 8]]


@pytest.mark.parametrize(
    ("name", "first"), [("pixart", 2), ("flux", 3), ("z_image", 2), ("hidream", None), ("sd", None)]
)
def test_one_by_one_is_what_hooks_on_the_encoder_would_do(name: str, first: int | None) -> None:
    """By hand: every module computes, and between key steps what it gave at the last one is put in place of that.

    The blocks are of one list, or of several: Flux has two, Z-Image refines noise and text first.
    """
    pipe = tiny_pipeline(name)
    config = replace(SERIAL, first_blocks=first)
    target = find_targets(pipe)[0]
    kept: dict[str, Any] = {}
    calls: dict[str, int] = {}
    handles = []
    for site in encoder_sites(target, config):

        def hook(module: Any, args: Any, output: Any, path: str = site.path) -> Any:
            step = calls[path] = calls.get(path, -1) + 1
            if step in (0, 1, 4):
                kept[path] = output
            return kept[path]

        handles.append(target.denoiser.get_submodule(site.path).register_forward_hook(hook))
    by_hand = run(pipe, name)
    assert set(calls.values()) == {STEPS - 1}
    for handle in handles:
        handle.remove()
    accelerate_pipeline(pipe, config)
    assert torch.equal(run(pipe, name), by_hand)


@pytest.mark.parametrize("name", ["flux", "sd3"])
def test_two_streams_one_by_one(name: str) -> None:
    pipe = tiny_pipeline(name)
    plain = run(pipe, name)
    with pytest.raises(UnsupportedModelError, match="set max_parallel=1"):
        accelerate_pipeline(pipe, replace(KEYS, max_parallel=2))
    accelerate_pipeline(pipe, KEYS)
    made = run(pipe, name)
    assert not torch.equal(made, plain) and effect(pipe).actual_frac == 5 / 8
    accelerate_pipeline(pipe, EncoderPropagationConfig(every=1))
    assert torch.equal(run(pipe, name), plain)


@pytest.mark.parametrize(("name", "off"), [("sd", 1.0), ("sdxl", 1.0), ("pixart", 1.0)])
def test_without_guidance(name: str, off: float) -> None:
    pipe = tiny_pipeline(name)
    accelerate_pipeline(pipe, SERIAL)
    serial = run(pipe, name, guidance_scale=off)
    accelerate_pipeline(pipe, KEYS)
    assert_near(run(pipe, name, guidance_scale=off), serial)


def test_each_picture_of_a_batch_as_if_alone() -> None:
    pipe = tiny_pipeline("sd")
    accelerate_pipeline(pipe, KEYS)
    call = tiny_call("sd", num_inference_steps=STEPS)
    embeds = [call.pop("prompt_embeds"), call.pop("negative_prompt_embeds")]
    other = [each.flip(-1) for each in embeds]
    del call["generator"]

    def draw(prompts: list[torch.Tensor], negative: list[torch.Tensor], seeds: list[int]) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        given = {"prompt_embeds": torch.cat(prompts), "negative_prompt_embeds": torch.cat(negative)}
        return torch.as_tensor(pipe(**call, **given, generator=generators).images)

    both = draw([embeds[0], other[0]], [embeds[1], other[1]], [1, 2])
    alone = torch.cat([draw([embeds[0]], [embeds[1]], [1]), draw([other[0]], [other[1]], [2])])
    assert_near(both, alone)


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


def test_kept_outputs_that_native_code_modifies_are_copied() -> None:
    """FreeU writes into what the mid block gave."""
    pipe = tiny_pipeline("sd")
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
    accelerate_pipeline(pipe, replace(KEYS, max_parallel=8))
    wide = run(pipe, "sd")
    accelerate_pipeline(pipe, SERIAL)
    run(pipe, "sd")  # finds out
    assert_near(run(pipe, "sd"), wide)


def test_another_number_of_steps_is_warned_of_and_refused_when_strict() -> None:
    pipe = tiny_pipeline("sd")
    accelerate_pipeline(pipe, KEYS)
    with pytest.warns(AccelerationWarning, match="8 denoiser evaluations and the run has 16"):
        run(pipe, "sd", num_inference_steps=16)
    assert effect(pipe).actual_frac == 1 - 3 / 16
    accelerate_pipeline(pipe, KEYS, strict=True)
    with pytest.raises(PlanMismatchError, match="the run has 16"):
        run(pipe, "sd", num_inference_steps=16)


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


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("sd", replace(KEYS, first_blocks=2), "is a UNet, whose encoder is what it is"),
        ("pixart", replace(KEYS, first_blocks=3), "it has 3 blocks, and 'first_blocks' = 3 leaves none"),
        ("wan22", KEYS, "one denoiser, and this one has transformer, transformer_2"),
        ("wan", replace(KEYS, max_parallel=2), "set max_parallel=1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused(name: str, config: EncoderPropagationConfig, message: str) -> None:
    pipe = tiny_pipeline(name)
    before = snapshot(pipe)
    with pytest.raises(UnsupportedModelError, match=message):
        accelerate_pipeline(pipe, config)
    assert_same(before, snapshot(pipe))


@pytest.mark.parametrize("other", [TrajectoryConfig(), StaticCacheConfig(schedule=GeneratorSpec("full_steps"))])
def test_not_beside_what_decides_or_answers_too(other: Any) -> None:
    with pytest.raises(ConfigError, match="cannot be combined"):
        accelerate_pipeline(tiny_pipeline("sd"), [KEYS, other])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"key_steps": (1, 2)}, "begin with 0"),
        ({"key_steps": (0, 3, 2)}, "ascend"),
        ({"key_steps": (0, 9), "num_steps": 8}, "key step 9 is outside a run of 8"),
        ({"key_steps": (0, 1.5)}, "whole numbers"),
        ({"key_steps": (0,), "every": 2}, "not both"),
        ({"num_steps": 8}, "num_steps says what 'key_steps' are for"),
        ({"max_parallel": 0}, "max_parallel must be a whole number of at least 1"),
        ({"prior_noise": -1}, "prior_noise must be a number from 0 to 1"),
        ({"prior_noise_from": "x"}, "prior_noise_from must be"),
    ],
    ids=str,
)
def test_config_refuses(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EncoderPropagationConfig(**fields)


def test_config_reads_what_it_wrote() -> None:
    for config in (EncoderPropagationConfig(), KEYS, EncoderPropagationConfig(every=4, prior_noise=0.003)):
        assert config_from_dict(config.to_dict(), {}) == config
    assert EncoderPropagationConfig().keys_for(50) == (0, 1, 2, 3, 5, 10, 15, 25, 35)
    assert EncoderPropagationConfig().keys_for(20) == (0, 1, 2, 3, 5, 10, 15)
    assert EncoderPropagationConfig(every=4).keys_for(10) == (0, 4, 8)
    assert KEYS.keys_for(16) == (0, 2, 8)
