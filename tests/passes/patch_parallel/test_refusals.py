"""What cannot work is refused on every rank at once, with the reason, before anything is drawn."""

from typing import Any

import pytest
import torch
from ranks import on_ranks, parallel
from tiny import tiny_call, tiny_pipeline

from dit_accel import (
    FirstBlockCacheConfig,
    PatchParallelConfig,
    StaticCacheConfig,
    accelerate_pipeline,
    is_accelerated,
)
from dit_accel.errors import CommunicationError, ConfigError, DitAccelError, UnsupportedModelError
from dit_accel.passes.patch_parallel.groups import pretending
from dit_accel.passes.patch_parallel.rows import Share
from dit_accel.schedules import GeneratorSpec

WITHOUT_GUIDANCE = {"guidance": "off", "warmup": 2}


def refused(name: str, passes: Any, *, size: int = 2, **call: Any) -> str:
    """What one rank of several says to this; the others would say the same."""
    with pytest.raises(DitAccelError) as found, pretending(0, size):
        pipe = tiny_pipeline(name)
        accelerate_pipeline(pipe, passes)
        pipe(**tiny_call(name, **call))
    return str(found.value)


@pytest.mark.parametrize("mode", ["stale", "partial"])
def test_few_steps(mode: str) -> None:
    config = PatchParallelConfig(mode=mode, **WITHOUT_GUIDANCE)
    assert "the 4 of this run are too far apart" in refused("flux", config, num_inference_steps=4)
    longer = PatchParallelConfig(mode=mode, guidance="off", warmup=8)
    assert "all warm-up (warmup=8)" in refused("flux", longer, num_inference_steps=8)


def test_steps_that_a_trajectory_leaves() -> None:
    from dit_accel import TrajectoryConfig

    passes = [TrajectoryConfig(speedup=3.0), PatchParallelConfig(mode="stale", **WITHOUT_GUIDANCE)]
    assert "too far apart" in refused("flux", passes, num_inference_steps=12)


def test_few_steps_are_exact_in_sync() -> None:
    with pretending(0, 2):
        pipe = tiny_pipeline("flux")
        accelerate_pipeline(pipe, PatchParallelConfig(mode="sync"))
        pipe(**tiny_call("flux", num_inference_steps=1))


def test_thresholds_that_look_at_a_ranks_own_rows() -> None:
    cache = FirstBlockCacheConfig(threshold=0.2)
    assert "decide differently" in refused("flux", [cache, PatchParallelConfig()])


def test_too_few_rows() -> None:
    assert "at most 4 ranks" in refused("pixart", PatchParallelConfig(mode="sync", guidance="off"), size=5)
    assert "at most 2 ranks" in refused("sd", PatchParallelConfig(mode="sync", guidance="off"), size=3)
    with pytest.raises(ConfigError, match="choose another height"):
        Share(10, 4, 2, 0)


def test_unknown_families() -> None:
    said = refused("cogvideox", PatchParallelConfig())
    assert "'cogvideox'" in said and "register_split" in said


def test_freeu() -> None:
    with pytest.raises(UnsupportedModelError, match="disable_freeu"), pretending(0, 2):
        pipe = tiny_pipeline("sd")
        pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
        accelerate_pipeline(pipe, PatchParallelConfig())


def test_arguments_of_the_whole_pictures_size() -> None:
    with pretending(0, 2):
        pipe = tiny_pipeline("flux")
        accelerate_pipeline(pipe, PatchParallelConfig(mode="sync"))
        call = pipe.transformer.forward
        pipe.transformer.forward = lambda *a, **k: call(*a, **{**k, "controlnet_block_samples": [torch.zeros(1)]})
        with pytest.raises(UnsupportedModelError, match="controlnet_block_samples"):
            pipe(**tiny_call("flux"))


def test_guidance_that_cannot_be_split() -> None:
    assert "distilled" in refused("flux", PatchParallelConfig(guidance="on"))
    assert "no two equal halves" in refused("pixart", PatchParallelConfig(guidance="on"), size=3)
    cached = StaticCacheConfig(schedule=GeneratorSpec("every_n", n=2))
    assert "of the other branch" in refused("wan", [cached, PatchParallelConfig(guidance="on")])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"mode": "stail"}, "Did you mean 'stale'"),
        ({"halo": 0}, "above 0 and at most 1"),
        ({"warmup": 0}, "from 1 on"),
        ({"warmup": True}, "from 1 on"),
        ({"guidance": "both"}, "auto, on, off"),
        ({"keys_and_values": "int4"}, "native, int8"),
        ({"timeout_s": -1}, "positive"),
    ],
)
def test_settings(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        PatchParallelConfig(**wrong)


def test_ranks_that_draw_from_different_noise() -> None:
    for said in on_ranks(_other_seeds, 2):
        assert "do not have the same latents" in said and "same seed" in said


def _other_seeds(rank: int, size: int) -> str:
    pipe = tiny_pipeline("pixart")
    accelerate_pipeline(pipe, PatchParallelConfig(mode="sync"))
    with pytest.raises(CommunicationError) as found:
        pipe(**tiny_call("pixart", seed=rank))
    return str(found.value)


def test_an_error_in_the_middle_leaves_nothing_behind() -> None:
    """On all ranks alike (a callback of the user's): what was on its way arrives, and the next run is as ever."""
    for error, pending, equal in on_ranks(_interrupted, 2):
        assert error == "stop" and not pending and equal


def _interrupted(rank: int, size: int) -> tuple[str, int, bool]:
    pipe = tiny_pipeline("pixart")
    accelerate_pipeline(pipe, PatchParallelConfig(mode="stale", **WITHOUT_GUIDANCE))
    expected = pipe(**tiny_call("pixart")).images
    block = pipe.transformer.transformer_blocks[2]
    original, calls = block.forward, []

    def stop(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:
            raise RuntimeError("stop")
        return original(*args, **kwargs)

    block.forward = stop
    with pytest.raises(RuntimeError) as found:
        pipe(**tiny_call("pixart"))
    pending = parallel(pipe).groups.everybody.num_pending
    block.forward = original
    again = pipe(**tiny_call("pixart")).images
    assert is_accelerated(pipe)
    return str(found.value), pending, torch.equal(again, expected)
