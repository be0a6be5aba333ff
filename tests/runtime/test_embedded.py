"""What always holds, on every pipeline that ships: bit-equality, exact undo, and presets that reuse what they plan."""

from typing import Any

import pytest
import torch
from snapshot import snapshot

from dit_accel import (
    Schedule,
    StaticCacheConfig,
    accelerate_pipeline,
    accelerated,
    load_embedded,
    remove_acceleration,
    summary,
)
from dit_accel.embedded import list_embedded
from dit_accel.pipelines.generation import GenerationSettings, generate, makes_video

STEPS = 6
NOTHING = StaticCacheConfig(schedule=Schedule(STEPS, {}), invariants=False)


@pytest.fixture(scope="module", params=list_embedded())
def loaded(request: pytest.FixtureRequest) -> Any:
    pipe = load_embedded(request.param)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pipe(loaded: Any) -> Any:
    yield loaded
    if "_dit_accel" in vars(loaded):
        remove_acceleration(loaded)


def draw(pipe: Any, steps: int = STEPS) -> torch.Tensor:
    frames = 4 if makes_video(pipe) else None
    settings = GenerationSettings(num_inference_steps=steps, num_frames=frames)
    return generate(pipe, ["a red apple"], [0], settings)


def drawn_by_default(pipe: Any) -> torch.Tensor:
    """As the shipped plans were certified: the pipeline's own steps and size."""
    return generate(pipe, ["a red apple"], [0], GenerationSettings())


@pytest.fixture
def plain(pipe: Any) -> torch.Tensor:
    return draw(pipe)


@pytest.mark.parametrize("plan", [NOTHING, "lossless"], ids=["compute everything", "lossless"])
def test_exact_plans_are_bit_equal(pipe: Any, plain: torch.Tensor, plan: Any) -> None:
    accelerate_pipeline(pipe, plan, strict=True)
    assert torch.equal(draw(pipe), plain)
    assert torch.equal(draw(pipe), plain)


def test_undo_is_exact(pipe: Any, plain: torch.Tensor) -> None:
    denoiser = getattr(pipe, "transformer", None) or pipe.unet
    before, everything = {key: value.data_ptr() for key, value in denoiser.state_dict().items()}, snapshot(pipe)
    with accelerated(pipe, "turbo"):
        assert not torch.equal(draw(pipe), plain)
    draw(pipe)  # the scheduler's own state moves on as it does in any run
    assert snapshot(pipe).keys() == everything.keys()
    assert {key: value.data_ptr() for key, value in denoiser.state_dict().items()} == before
    assert not any("forward" in vars(module) for module in denoiser.modules())
    assert torch.equal(draw(pipe), plain)


def test_a_preset_reuses_what_it_plans(pipe: Any) -> None:
    plain = drawn_by_default(pipe)
    accelerate_pipeline(pipe, "fast", strict=True)
    made = drawn_by_default(pipe)
    effect = summary(pipe).denoisers[0].effects["trajectory"]
    assert (
        effect.actual_frac == pytest.approx(effect.planned_frac)
        and effect.planned_frac >= 0.6
        and effect.shortfall is None
    )
    assert 0 < float((made - plain).square().mean()) < 0.01
