"""Encoder propagation: in batches as one by one, every step its own output, undone without a trace."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from propagation import KEYS, NAMES, SERIAL, STEPS, Counter, assert_near, effect, run
from snapshot import assert_same, snapshot
from tiny import tiny_call, tiny_pipeline

from dit_accel import (
    EncoderPropagationConfig,
    GeneratorSpec,
    StaticCacheConfig,
    accelerate_pipeline,
    remove_acceleration,
    summary,
)
from dit_accel.errors import UnsupportedModelError
from dit_accel.families.targets import find_targets
from dit_accel.passes.encoder_propagation.encoder import encoder_sites


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
