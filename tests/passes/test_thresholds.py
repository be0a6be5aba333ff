"""What always holds, for both passes that skip blocks by a measured change, on tiny pipelines."""

import itertools
from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from accelerate.hooks import attach_align_device_hook
from diffusers.hooks import apply_group_offloading
from refusals import refused
from snapshot import assert_same, snapshot
from teacache_reference import Skipper
from tiny import TINY_PIPELINE_NAMES, tiny_call, tiny_model, tiny_pipeline

from dit_accel import (
    AccelerationPlan,
    FirstBlockCacheConfig,
    GeneratorSpec,
    StaticCacheConfig,
    TeaCacheConfig,
    accelerate_pipeline,
    remove_acceleration,
    summary,
)
from dit_accel.errors import AccelerationWarning, ConfigError, PlanMismatchError, UnsupportedModelError
from dit_accel.families import register_family
from dit_accel.families.catalog import find_family, unregister_family
from dit_accel.families.pipeline import find_denoisers
from dit_accel.session.session import session_of

STEPS = 8
STEADY = 0.1  # what the polynomial of TEA predicts of every step: two are skipped, the third is computed
TEA = TeaCacheConfig(threshold=0.25, coefficients=(STEADY,))
FIRST = FirstBlockCacheConfig(threshold=0.6)
BOTH = pytest.mark.parametrize("plan", [TEA, FIRST], ids=["teacache", "first_block_cache"])


def latents(output: Any) -> torch.Tensor:
    first = output[0]
    return first if isinstance(first, torch.Tensor) else torch.stack(list(first))


def run(pipe: Any, name: str, **more: Any) -> torch.Tensor:
    return latents(pipe(**tiny_call(name, **{"num_inference_steps": STEPS, **more})))


def effect(pipe: Any, denoiser: int = 0) -> Any:
    return next(iter(summary(pipe).denoisers[denoiser].effects.values()))


def reference(pipe: Any, **more: Any) -> Skipper:
    return Skipper(pipe, threshold=TEA.threshold, predict=lambda d: STEADY, **more)


@BOTH
@pytest.mark.parametrize("name", ["pixart", "flux", "wan", "wan22", "sd3", "cogvideox", "hunyuan_video"])
def test_acts_and_is_undone_exactly(name: str, plan: Any) -> None:
    pipe = tiny_pipeline(name)
    plain = run(pipe, name)
    before = snapshot(pipe)
    accelerate_pipeline(pipe, plan, strict=True)
    made = run(pipe, name)
    assert torch.isfinite(made).all() and not torch.equal(made, plain)
    for number in range(2 if name == "wan22" else 1):
        assert 0 < effect(pipe, number).actual_frac == effect(pipe, number).planned_frac < 1
    remove_acceleration(pipe)
    assert_same(before, snapshot(pipe))
    assert torch.equal(run(pipe, name), plain)


@BOTH
def test_acts_on_every_stack_or_says_why_not(plan: Any) -> None:
    """A family that is registered is refused before it runs, if at all."""
    acted = set()
    for name in TINY_PIPELINE_NAMES:
        pipe = tiny_pipeline(name)
        plain = run(pipe, name)
        before = snapshot(pipe)
        try:
            accelerate_pipeline(pipe, plan)
        except UnsupportedModelError as error:
            assert "stack" in str(error) or "stream" in str(error), name
            assert_same(before, snapshot(pipe))
            continue
        try:
            assert not torch.equal(run(pipe, name), plain), name
            acted.add(name)
        except UnsupportedModelError as error:
            assert "no single stack" in str(error) and find_family(find_denoisers(pipe)[0][1]) is None, name
        remove_acceleration(pipe)
        assert_same(before, snapshot(pipe))
        assert torch.equal(run(pipe, name), plain)
    assert acted >= {
        "pixart",
        "sd3",
        "flux",
        "wan",
        "wan22",
        "dit",
        "sana",
        "cogvideox",
        "ltx",
        "hunyuan_video",
        "mochi",
    }
    assert not acted & {"sd", "sdxl"}


@BOTH
def test_streams_that_are_joined_between_stacks_are_refused(plan: Any) -> None:
    model = tiny_model("flux")
    known = find_family(model)
    joined = replace(known.stacks[1], streams=("hidden_states",))
    family = replace(known, name="joined", stacks=(known.stacks[0], joined))
    register_family(family)
    try:
        with pytest.raises(UnsupportedModelError, match=r"joins the streams between 'blocks.\d' and 'single.0'"):
            accelerate_pipeline(model, plan, scheduler=tiny_pipeline("flux").scheduler)
    finally:
        unregister_family(family)


def test_teacache_of_two_denoisers_keeps_a_state_of_each() -> None:
    pipe, plain_pipe = tiny_pipeline("wan22"), tiny_pipeline("wan22")
    seen = {"transformer": 0, "transformer_2": 0}
    for part in seen:
        getattr(plain_pipe, part).register_forward_hook(lambda *_, p=part: seen.__setitem__(p, seen[p] + 1))
    run(plain_pipe, "wan22")
    start = seen["transformer"] // 2
    assert 1 < start < STEPS - 1
    one, two = reference(plain_pipe), reference(plain_pipe, part="transformer_2", start=start)
    expected = run(plain_pipe, "wan22")
    accelerate_pipeline(pipe, TEA, strict=True)
    assert torch.equal(run(pipe, "wan22"), expected)
    for number, skipper in enumerate((one, two)):
        assert effect(pipe, number).actual_frac == skipper.skipped / skipper.calls > 0


@BOTH
@pytest.mark.parametrize("name", ["pixart", "flux", "wan"])
def test_a_then_b_equals_b_alone(name: str, plan: Any) -> None:
    used = accelerate_pipeline(tiny_pipeline(name), plan)
    images = "num_videos_per_prompt" if name == "wan" else "num_images_per_prompt"
    requests: list[dict[str, Any]] = [{}, {images: 2}, {"height": 96, "width": 128}, {"num_inference_steps": 9}]
    if name != "flux":
        requests.append({"guidance_scale": 1.0})
    alone = [run(accelerate_pipeline(tiny_pipeline(name), plan), name, **request) for request in requests]
    for number in itertools.chain(range(len(requests)), reversed(range(len(requests)))):
        assert torch.equal(run(used, name, **requests[number]), alone[number])
        assert summary(used).denoisers[0].last_run.restarts == {}


@BOTH
@pytest.mark.parametrize("at", [1, 3, 5])
def test_after_an_exception_in_mid_run(at: int, plan: Any) -> None:
    pipe = accelerate_pipeline(tiny_pipeline("flux"), plan)
    other = {"prompt_embeds": torch.randn(1, 6, 12, generator=torch.Generator().manual_seed(31))}
    alone = run(pipe, "flux", **other)

    def fail(pipe: Any, step: int, *_: Any) -> Any:
        if step == at:
            raise RuntimeError("stop")
        return {}

    with pytest.raises(RuntimeError, match="stop"):
        run(pipe, "flux", callback_on_step_end=fail)
    assert torch.equal(run(pipe, "flux", **other), alone)
    with pytest.raises(RuntimeError, match="stop"):
        handle = pipe.transformer.transformer_blocks[1].register_forward_pre_hook(lambda *_: fail(pipe, at))
        run(pipe, "flux")
    handle.remove()
    assert torch.equal(run(pipe, "flux", **other), alone)


def test_image_to_image_begins_with_a_computed_step() -> None:
    parts = tiny_pipeline("flux").components
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    call = {**tiny_call("flux", num_inference_steps=10), "image": picture, "strength": 0.7}
    pipe = diffusers.FluxImg2ImgPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    plain = latents(pipe(**call))
    accelerate_pipeline(pipe, TEA, strict=True)
    runtime = session_of(pipe).runtimes[0]
    rows: list[tuple[int, str]] = []
    runtime.around(lambda c, inner: (inner(c), rows.append((c.step, c.row.variant)))[0], by="test")
    call["generator"] = torch.Generator().manual_seed(0)
    made = latents(pipe(**call))
    steps, variants = zip(*rows, strict=True)
    assert steps == tuple(range(3, 10))
    words = ("computed", "reused", "reused", "computed", "reused", "reused", "computed")
    assert variants == tuple(f"span {word}" for word in words)
    assert not torch.equal(made, plain)


@BOTH
def test_guidance_that_ends_part_way_starts_anew(plan: Any) -> None:
    def end(pipe: Any, step: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step == 3:
            pipe._guidance_scale = 0.0
            return {key: value[1:] for key, value in kwargs.items()}
        return {}

    pipe = accelerate_pipeline(tiny_pipeline("sd3"), plan)
    more = {
        "callback_on_step_end": end,
        "callback_on_step_end_tensor_inputs": ["prompt_embeds", "pooled_prompt_embeds"],
    }
    made = run(pipe, "sd3", **more)
    assert summary(pipe).denoisers[0].last_run.restarts == {"another shape than expected": 1}
    assert torch.equal(run(pipe, "sd3", **more), made)


@BOTH
def test_forward_chunking_changes_nothing(plan: Any) -> None:
    pipe = accelerate_pipeline(tiny_pipeline("pixart"), plan, strict=True)
    made = run(pipe, "pixart")
    pipe.transformer.transformer_blocks[1].set_chunk_feed_forward(4, dim=1)
    torch.testing.assert_close(run(pipe, "pixart"), made, rtol=1e-5, atol=1e-5)


@BOTH
def test_a_threshold_of_zero_is_exact(plan: Any) -> None:
    pipe = tiny_pipeline("pixart")
    plain = run(pipe, "pixart")
    nothing = TeaCacheConfig(threshold=0, coefficients=(1.0,)) if plan is TEA else FirstBlockCacheConfig(threshold=0)
    accelerate_pipeline(pipe, nothing, strict=True)
    assert torch.equal(run(pipe, "pixart"), plain)
    assert effect(pipe).actual_frac == 0


def test_a_change_that_is_no_number_is_a_large_one() -> None:
    for plan in (TeaCacheConfig(threshold=9.0, coefficients=(1.0, 0.0)), FirstBlockCacheConfig(threshold=9.0)):
        pipe = accelerate_pipeline(tiny_pipeline("pixart"), plan)
        pipe.transformer.transformer_blocks[0].norm1.register_forward_hook(lambda *a: a[-1] * float("nan"))
        with pytest.warns(AccelerationWarning, match="skipped no blocks"):
            run(pipe, "pixart")


def test_what_a_run_says_that_skipped_nothing() -> None:
    for plan, word in (
        (TeaCacheConfig(threshold=0.05, coefficients=(STEADY,)), "the sum of the predicted changes"),
        (FirstBlockCacheConfig(threshold=1e-6), "the change of what the first block adds"),
    ):
        pipe = accelerate_pipeline(tiny_pipeline("pixart"), plan)
        assert summary(pipe).denoisers[0].effects == {}
        with pytest.warns(AccelerationWarning, match=f"{word} was never below the threshold.*raise the threshold"):
            run(pipe, "pixart")
        strict = accelerate_pipeline(tiny_pipeline("pixart"), plan, strict=True)
        with pytest.raises(PlanMismatchError, match="skipped no blocks"):
            run(strict, "pixart")
    short = accelerate_pipeline(tiny_pipeline("pixart"), TEA)
    with pytest.warns(AccelerationWarning, match="too few steps"):
        run(short, "pixart", num_inference_steps=2)


def test_teacache_of_another_number_of_steps_says_so() -> None:
    fitted = TeaCacheConfig(threshold=0.25, coefficients=(STEADY,), num_steps=20)
    pipe = accelerate_pipeline(tiny_pipeline("pixart"), fitted)
    with pytest.warns(AccelerationWarning, match="fitted to runs of 20 steps and this one has 8"):
        run(pipe, "pixart")


@BOTH
@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
def test_group_offload(kind: str, plan: Any) -> None:
    made = run(accelerate_pipeline(tiny_pipeline("pixart"), plan), "pixart")
    more = {"num_blocks_per_group": 1} if kind == "block_level" else {}

    def offload(pipe: Any) -> Any:
        apply_group_offloading(pipe.transformer, torch.device("cpu"), torch.device("cpu"), kind, **more)
        return pipe

    early, late = accelerate_pipeline(offload(tiny_pipeline("pixart")), plan), tiny_pipeline("pixart")
    offload(accelerate_pipeline(late, plan))
    for pipe in (early, late, early, late):
        assert torch.equal(run(pipe, "pixart"), made)


@BOTH
def test_sequential_offload_of_the_modules(plan: Any) -> None:
    made = run(accelerate_pipeline(tiny_pipeline("pixart"), plan), "pixart")
    pipe = tiny_pipeline("pixart")
    attach_align_device_hook(pipe.transformer, execution_device=torch.device("cpu"), offload=False)
    assert torch.equal(run(accelerate_pipeline(pipe, plan, strict=True), "pixart"), made)


def test_teacache_computes_everything_where_it_cannot_look_ahead() -> None:
    pipe = accelerate_pipeline(tiny_pipeline("pixart"), TEA)
    pipe.transformer.compile(backend="eager")
    attach_align_device_hook(pipe.transformer, execution_device=torch.device("cpu"), offload=False)
    session_of(pipe).runtimes[0].compiler.compile_function = lambda function: function  # hooks cannot be traced
    with pytest.warns(AccelerationWarning, match="computes every step of 'transformer', which is compiled") as caught:
        assert torch.equal(run(pipe, "pixart"), run(tiny_pipeline("pixart"), "pixart"))
    assert [str(each.message) for each in caught if each.category is AccelerationWarning][1:] == []


@BOTH
def test_refused_beside_another_that_decides(plan: Any) -> None:
    schedule = StaticCacheConfig(schedule=GeneratorSpec("every_n", n=2))
    words = "static_cache", plan.type_name, "both want to be the one that decides what is computed in each call"
    refused([schedule, plan], ConfigError, *words)
    refused([TEA, FIRST], ConfigError, "teacache", "first_block_cache", "both want")


@BOTH
def test_refused_on_a_unet(plan: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=r"it skips a stack of transformer blocks.*use static_cache"):
        accelerate_pipeline(tiny_pipeline("sd"), plan)


def test_bad_settings() -> None:
    with pytest.raises(ConfigError, match=r"needs the coefficients of this model.*fit_teacache\(pipe, run\)"):
        TeaCacheConfig(threshold=0.25)
    for wrong in ("1, 2", (1.0, float("nan")), (1, "2"), {"transformer": ()}):
        with pytest.raises(ConfigError, match="coefficients must be finite numbers"):
            TeaCacheConfig(coefficients=wrong)
    for make in (FirstBlockCacheConfig, lambda **k: TeaCacheConfig(coefficients=(1.0,), **k)):
        for threshold in (-0.1, "0.1", True, float("nan"), None):
            with pytest.raises(ConfigError, match="not negative"):
                make(threshold=threshold)
    with pytest.raises(ConfigError, match="num_steps"):
        TeaCacheConfig(coefficients=(1.0,), num_steps=0)
    with pytest.raises(UnsupportedModelError, match="the coefficients are for transformer_2: fit them"):
        accelerate_pipeline(tiny_pipeline("pixart"), TeaCacheConfig(coefficients={"transformer_2": (1.0,)}))


@pytest.mark.filterwarnings("ignore::dit_accel.errors.AccelerationWarning")
@pytest.mark.parametrize(
    "config",
    [
        TeaCacheConfig(threshold=0.3, coefficients=(1.0, -2.5e-3, 0.5), num_steps=20, r2=0.87),
        TeaCacheConfig(coefficients={"transformer": (0.1,), "transformer_2": (0.2, 0.0)}),
        FirstBlockCacheConfig(threshold=0.6),
    ],
    ids=lambda config: config.type_name,
)
def test_a_plan_file_brings_them_back(config: Any, tmp_path: Any) -> None:
    AccelerationPlan(name="mine", passes=(config,)).save_pretrained(tmp_path)
    read = AccelerationPlan.from_pretrained(tmp_path)
    assert read.passes == (config,)
    name = "wan22" if isinstance(getattr(config, "coefficients", None), dict) else "pixart"
    one, other = (run(accelerate_pipeline(tiny_pipeline(name), plan), name) for plan in (config, str(tmp_path)))
    assert torch.equal(one, other)
