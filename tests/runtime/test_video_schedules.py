"""Any schedule on the video families equals the reference replay; nothing of one run is left in the next."""

from collections.abc import Callable, Hashable
from typing import Any

import pytest
import tiny_calls
import torch
from reference import config, every_second, graph_of, one_call, random_schedule, replayed, tensor_of, two_calls
from tiny import tiny_call, tiny_pipeline

from dit_accel import accelerate_pipeline, summary
from dit_accel.families.pipeline import find_denoisers
from dit_accel.schedules import GeneratorSpec, Schedule

STEPS = 6
# What changes the number of frames, and how often a step calls the denoiser.
NAMES: dict[str, tuple[dict[str, Any], Callable[[int], tuple[int, Hashable]]]] = {
    "wan_ti2v": ({"num_frames": 9}, two_calls),
    "wan_vace": ({"num_frames": 9}, two_calls),
    "ltx2": ({"num_frames": 5}, one_call),
    "animatediff": ({"num_frames": 3}, one_call),
    "svd": ({"num_frames": 3}, one_call),
    "kandinsky5": ({"num_frames": 9}, two_calls),
    "hunyuan_video15": ({"num_frames": 5}, two_calls),
    "allegro": ({"num_frames": 9}, one_call),
    "mochi": ({"num_frames": 13}, one_call),
}
UNET_PLANS = {
    "deepcache": GeneratorSpec("deepcache", n=2),
    "encoder_propagation": GeneratorSpec("encoder_propagation", key_steps=[0, 2]),
}


def _run(pipe: Any, name: str, **more: Any) -> torch.Tensor:
    return tensor_of(pipe(**tiny_call(name, num_inference_steps=STEPS, **more)))


def _replay(name: str, schedule: Schedule, **more: Any) -> torch.Tensor:
    pipe = tiny_pipeline(name)
    with replayed(find_denoisers(pipe)[0][1], schedule, NAMES[name][1]):
        return _run(pipe, name, **more)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", NAMES)
def test_random_schedules_equal_the_replay(name: str, seed: int) -> None:
    pipe = tiny_pipeline(name)
    schedule = random_schedule(find_denoisers(pipe)[0][1], STEPS, seed)
    accelerate_pipeline(pipe, config(schedule))
    assert torch.equal(_run(pipe, name), _replay(name, schedule))
    assert summary(pipe).denoisers[0].last_run.actual_reuse > 0


@pytest.mark.parametrize("plan", UNET_PLANS)
@pytest.mark.parametrize("name", ["animatediff", "svd"])
def test_plans_for_unets_equal_the_replay(name: str, plan: str) -> None:
    pipe = tiny_pipeline(name)
    graph = graph_of(pipe.unet)
    schedule = UNET_PLANS[plan].build(graph, STEPS)
    accelerate_pipeline(pipe, config(UNET_PLANS[plan]))
    got = _run(pipe, name)
    assert torch.equal(got, _replay(name, schedule))
    assert not torch.equal(got, _run(tiny_pipeline(name), name))


@pytest.mark.parametrize("name", NAMES)
def test_a_then_b_equals_b_alone(name: str) -> None:
    used = tiny_pipeline(name)
    schedule = every_second(find_denoisers(used)[0][1], STEPS)
    accelerate_pipeline(used, config(schedule))
    longer, seed = NAMES[name][0], torch.Generator().manual_seed(17)
    requests: list[dict[str, Any]] = [{}, longer, {"generator": seed}, longer, {}]
    alone = {str(request): _replay(name, schedule, **request) for request in requests[:2]}
    for request in requests:
        got = _run(used, name, **request)
        if "generator" not in request:
            assert torch.equal(got, alone[str(request)])
        assert summary(used).denoisers[0].last_run.restarts == {}


def test_every_segment_of_an_animation_is_a_run() -> None:
    """Wan Animate makes a long video piece by piece, each with the whole schedule."""
    segments: dict[str, Any] = {
        "pose_video": tiny_calls.pictures(9, 64, seed=2),
        "face_video": tiny_calls.pictures(9, 16, seed=3),
    }
    plain_pipe, pipe = tiny_pipeline("wan_animate"), tiny_pipeline("wan_animate")
    schedule = every_second(plain_pipe.transformer, STEPS)

    def locate(call: int) -> tuple[int, Hashable]:
        segment, within = divmod(call, 2 * STEPS)
        return within // 2, (segment, within % 2)

    with replayed(plain_pipe.transformer, schedule, locate) as seen:
        expected = _run(plain_pipe, "wan_animate", **segments)
    assert len(seen) == 2 * 2 * STEPS
    accelerate_pipeline(pipe, config(schedule), strict=True)
    assert torch.equal(_run(pipe, "wan_animate", **segments), expected)
