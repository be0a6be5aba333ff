"""Compute everything: bit-equal to the plain pipeline. Reuse: equal to the reference replay."""

import pytest
import torch
from reference import config, every_second, graph_of, random_schedule, replayed, tensor_of, two_calls
from tiny import TINY_PIPELINE_NAMES, tiny_call, tiny_pipeline

from dit_accel import AccelerationPlan, accelerate_pipeline, summary
from dit_accel.families.pipeline import find_denoisers
from dit_accel.schedules import GeneratorSpec, Schedule
from dit_accel.schedules.generators import LEAF_KINDS

STEPS = 6
TWO_CALLS = ("wan", "qwen_image", "lumina2", "flux2_klein", "chroma", "cogview4")
TWO_CALLS += ("qwen_image_edit", "qwen_image_edit_plus")
TWO_CALLS += ("wan22_low", "wan_ti2v", "wan_vace", "wan_animate", "kandinsky5", "hunyuan_video15")


def _run(pipe: object, name: str, **more: object) -> torch.Tensor:
    return tensor_of(pipe(**tiny_call(name, num_inference_steps=STEPS, **more)))  # type: ignore[operator]


@pytest.mark.parametrize("plan", ["empty", "compute-everything", "lossless", "custom-nothing"])
@pytest.mark.parametrize("name", TINY_PIPELINE_NAMES)
def test_nothing_reused_is_bit_equal(name: str, plan: str) -> None:
    pipe = tiny_pipeline(name)
    plain = _run(pipe, name)
    chosen = {
        "empty": AccelerationPlan(),
        "compute-everything": config(Schedule(STEPS, {}), invariants=False),
        "lossless": "lossless",
        "custom-nothing": config(GeneratorSpec("custom", reuse={}), invariants=False),  # type: ignore[arg-type]
    }[plan]
    accelerate_pipeline(pipe, chosen, strict=True)
    assert torch.equal(_run(pipe, name), plain)


# The second denoiser of Wan 2.2 does not begin at step 0: test_guidance.py.
@pytest.mark.parametrize("name", [name for name in TINY_PIPELINE_NAMES if name != "wan22"])
def test_every_second_step_equals_the_replay(name: str) -> None:
    plain_pipe, pipe = tiny_pipeline(name), tiny_pipeline(name)
    locate = two_calls if name in TWO_CALLS else (lambda call: (call, 0))
    ((_, denoiser),) = find_denoisers(plain_pipe)
    schedule = every_second(denoiser, STEPS)
    with replayed(denoiser, schedule, locate) as seen:
        expected = _run(plain_pipe, name)
    accelerate_pipeline(pipe, config(schedule))
    got = _run(pipe, name)
    assert torch.equal(got, expected)
    assert not torch.equal(got, _run(tiny_pipeline(name), name)), "nothing was reused"
    stats = summary(pipe).denoisers[0].last_run
    assert stats is not None
    assert (stats.calls, stats.num_steps, stats.restarts) == (len(seen), STEPS, {})
    assert stats.actual_reuse == stats.planned_reuse > 0
    assert stats.actual_computed == stats.planned_computed


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "name",
    ["pixart", "flux", "sd", "sd3", "wan", "hunyuan_video", "cogvideox", "flux2", "z_image", "hidream", "cogview4"],
)
def test_random_schedules_equal_the_replay(name: str, seed: int) -> None:
    """Any mixture of leaves, whole blocks, encoders and the whole model."""
    plain_pipe, pipe = tiny_pipeline(name), tiny_pipeline(name)
    ((_, denoiser),) = find_denoisers(plain_pipe)
    schedule = random_schedule(denoiser, STEPS, seed)
    with replayed(denoiser, schedule, two_calls if name in TWO_CALLS else (lambda call: (call, 0))):
        expected = _run(plain_pipe, name)
    accelerate_pipeline(pipe, config(schedule))
    torch.testing.assert_close(_run(pipe, name), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["pixart", "flux", "sd", "wan"])
def test_gates_and_modulation_are_those_of_the_current_step(name: str) -> None:
    """Pre-gate: with every attention and feed-forward output held, the time embedding still reaches the output."""
    pipe = tiny_pipeline(name)
    ((_, denoiser),) = find_denoisers(pipe)
    held = graph_of(denoiser).select(kinds=LEAF_KINDS)
    schedule = Schedule(STEPS, {site.id: "1" + "0" * (STEPS - 1) for site in held})
    accelerate_pipeline(pipe, config(schedule))
    outputs: dict[float, list[torch.Tensor]] = {}

    for factor in (1.0, 0.5):
        seen = outputs.setdefault(factor, [])

        def scale_time(module: object, args: tuple, kwargs: dict, factor: float = factor) -> tuple:
            # only in the last step, in which everything listed is reused
            if len(outputs[factor]) < STEPS - 1:
                return args, kwargs
            if "timestep" in kwargs:
                return args, {**kwargs, "timestep": kwargs["timestep"] * factor}
            return (args[0], args[1] * factor, *args[2:]), kwargs

        handles = [
            denoiser.register_forward_pre_hook(scale_time, with_kwargs=True),
            denoiser.register_forward_hook(lambda m, a, out, seen=seen: seen.append(tensor_of(out).clone())),
        ]
        _run(pipe, name, **({"guidance_scale": 1.0} if name == "wan" else {}))
        for handle in handles:
            handle.remove()
    for before, after in zip(outputs[1.0][:-1], outputs[0.5][:-1], strict=True):
        assert torch.equal(before, after)
    assert not torch.equal(outputs[1.0][-1], outputs[0.5][-1])
