"""With other passes, undone, and alone."""

from typing import Any

import pytest
import torch
from ranks import apart, drawn, latents_of, on_ranks, parallel, plain
from snapshot import assert_same, snapshot
from tiny import tiny_call, tiny_pipeline

from dit_accel import (
    PatchParallelConfig,
    StaticCacheConfig,
    TrajectoryConfig,
    accelerate_pipeline,
    remove_acceleration,
    summary,
)
from dit_accel.passes.patch_parallel.groups import pretending
from dit_accel.plan.plan import AccelerationPlan
from dit_accel.schedules import GeneratorSpec

SYNC = PatchParallelConfig(mode="sync", guidance="off")
CACHE = StaticCacheConfig(schedule=GeneratorSpec("every_n", n=2))


def accelerated_alone(name: str, config: Any, **call: Any) -> torch.Tensor:
    pipe = tiny_pipeline(name)
    accelerate_pipeline(pipe, config)
    return latents_of(pipe(**tiny_call(name, **call)))


@pytest.mark.parametrize("name", ["pixart", "flux"])
def test_a_reused_module_sends_nothing(name: str) -> None:
    call = {"num_inference_steps": 6}
    (cached,) = drawn(2, name, [CACHE, SYNC], **call)
    assert apart(cached[0].picture, accelerated_alone(name, CACHE, **call)) < 2e-5
    for step in range(6):
        sent = cached[0].sent(op="all_gather", step=step, phase="warmup")
        assert (sent > 0) == (step % 2 == 0), "evaluations 1, 3 and 5 reuse all attention"
        assert cached[0].sent(phase="output", step=step) > 0


def test_stale_values_outlive_the_steps_that_reuse() -> None:
    stale = PatchParallelConfig(mode="stale", guidance="off", warmup=2)
    (cached,) = drawn(2, "pixart", [CACHE, stale], num_inference_steps=10)
    alone = accelerated_alone("pixart", CACHE, num_inference_steps=10)
    assert 0 < apart(cached[0].picture, alone) < 0.5
    steady = [step for step in range(10) if cached[0].sent(phase="steady", step=step)]
    assert steady == [2, 4, 6, 8]


def test_an_answered_call_sends_nothing() -> None:
    trajectory = TrajectoryConfig(speedup=2.0)
    call = {"num_inference_steps": 8}
    (made,) = drawn(2, "flux", [trajectory, SYNC], **call)
    assert apart(made[0].picture, accelerated_alone("flux", trajectory, **call)) < 2e-5
    computed = trajectory.steps_of(8)
    assert 0 < len(computed) < 8
    for step in range(8):
        assert (made[0].sent(step=step, phase="warmup") > 0) == (step in computed)
        assert (made[0].sent(step=step, phase="output") > 0) == (step in computed)


def test_guidance_is_split_beside_a_trajectory() -> None:
    trajectory = TrajectoryConfig(speedup=2.0)
    (made,) = drawn(2, "wan", [trajectory, PatchParallelConfig()], num_inference_steps=8)
    alone = accelerated_alone("wan", trajectory, num_inference_steps=8)
    assert apart(made[0].picture, alone) < 2e-5
    assert made[0].sent(phase="guidance") > 0


def test_undone_exactly() -> None:
    for same, equal, actual in on_ranks(_undone, 2):
        assert same is None and equal
        assert actual == 0.5


def _undone(rank: int, size: int) -> tuple[None, bool, float | None]:
    pipe = tiny_pipeline("sd")
    expected = pipe(**tiny_call("sd", num_inference_steps=1)).images
    before = snapshot(pipe)
    accelerate_pipeline(pipe, SYNC, strict=True)
    pipe(**tiny_call("sd", num_inference_steps=1))
    effect = summary(pipe).denoisers[0].effects["patch_parallel"]
    remove_acceleration(pipe)
    same = assert_same(before, snapshot(pipe))
    return same, torch.equal(pipe(**tiny_call("sd", num_inference_steps=1)).images, expected), effect.actual_frac


@pytest.mark.parametrize("name", ["pixart", "sd"])
def test_alone_it_changes_nothing(name: str) -> None:
    assert torch.equal(accelerated_alone(name, PatchParallelConfig()), plain(name))


def test_a_plan_with_it_is_saved_and_read(tmp_path: Any) -> None:
    config = PatchParallelConfig(mode="partial", halo=0.5, warmup=3, keys_and_values="int8")
    AccelerationPlan(passes=(config,)).save_pretrained(tmp_path)
    assert AccelerationPlan.from_pretrained(tmp_path).passes == (config,)


def test_a_pretended_rank_sends_what_a_real_one_does() -> None:
    config = PatchParallelConfig(mode="partial", guidance="off", warmup=2)
    (real,) = drawn(3, "pixart", config)
    for rank in range(3):
        with pretending(rank, 3):
            pipe = tiny_pipeline("pixart")
            accelerate_pipeline(pipe, config)
            pipe(**tiny_call("pixart"))
            assert sorted(parallel(pipe).groups.traffic) == sorted(real[rank].traffic)
