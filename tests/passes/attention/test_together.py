"""Every pass that decides on scores under a fitted trajectory, and all at once: cached, compiled and offloaded too."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers.hooks import apply_group_offloading
from sparse_wan import draw, paro, sparse_configs, sparse_wan

from dit_accel import (
    CompileConfig,
    GeneratorSpec,
    StaticCacheConfig,
    TrajectoryConfig,
    accelerate_pipeline,
    remove_acceleration,
    summary,
)
from dit_accel.calibration.fit import fit
from dit_accel.calibration.recording import record
from dit_accel.plan.config import PassConfig
from dit_accel.session.session import session_of

STEPS = 6
COMPUTED = (0, 1, 3, 4)
CACHE = StaticCacheConfig(schedule=GeneratorSpec("every_n", n=2))
KINDS = ["paro_attention", *sparse_configs()]


@pytest.fixture(scope="module")
def fitted() -> TrajectoryConfig:
    """Weights for two of six evaluations, from the plain model's own run."""
    pipe = sparse_wan()

    def one(first: int, last: int) -> torch.Tensor:
        return video(pipe)

    return fit(pipe, one, record(pipe, one, 0, 1), COMPUTED, 0, 1).config


def video(pipe: Any) -> torch.Tensor:
    return draw(pipe, num_inference_steps=STEPS)


def sparse(kind: str) -> PassConfig:
    config = paro(sparse_wan(), 0.4) if kind == "paro_attention" else sparse_configs()[kind]
    return replace(config, dense_steps_frac=0.0)


def whole(kind: str) -> PassConfig:
    """The pass that leaves nothing out."""
    if kind == "paro_attention":
        return paro(sparse_wan(), 1.0)
    exact = {"precision": "plain"} if kind == "static_mask" else {}
    return replace(sparse(kind), density=1.0, **exact)


@pytest.mark.parametrize("kind", KINDS)
def test_under_a_fitted_trajectory(kind: str, fitted: TrajectoryConfig) -> None:
    """Answers are fitted; what is left to compute is sparse, and the plan says of both what it did."""
    assert fitted.weights is not None
    pipe = sparse_wan()
    plain = video(pipe)
    accelerate_pipeline(pipe, fitted, strict=True)
    alone = video(pipe)
    accelerate_pipeline(pipe, [fitted, whole(kind)], strict=True)
    assert torch.allclose(video(pipe), alone, atol=1e-4)
    accelerate_pipeline(pipe, [fitted, sparse(kind)], strict=True)
    both = video(pipe)
    effects = summary(pipe).denoisers[0].effects
    assert effects["trajectory"].actual_frac == pytest.approx(1 / 3)
    assert 0.2 < effects[kind].actual_frac < 0.8
    layers = session_of(pipe).runtimes[0].around_of(kind).sparse.layers
    assert all(layer.route.calls == 2 * len(COMPUTED) for layer in layers), "two branches of what is computed"
    assert torch.equal(video(pipe), both), "a second run is as the first one"
    remove_acceleration(pipe)
    assert torch.equal(video(pipe), plain)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_fitted_cached_compiled_and_offloaded(kind: str, fitted: TrajectoryConfig) -> None:
    pipe = sparse_wan()
    plain = video(pipe)
    stack = [fitted, CACHE, sparse(kind)]
    accelerate_pipeline(pipe, stack)
    eager = video(pipe)
    effects = summary(pipe).denoisers[0].effects
    assert effects["trajectory"].actual_frac and effects["static_cache"].actual_frac and effects[kind].actual_frac
    remove_acceleration(pipe)
    torch._dynamo.reset()
    accelerate_pipeline(pipe, [*stack, CompileConfig(backend="eager")])
    assert torch.allclose(video(pipe), eager, atol=1e-4)
    remove_acceleration(pipe)
    apply_group_offloading(pipe.transformer, torch.device("cpu"), torch.device("cpu"), "leaf_level")
    accelerate_pipeline(pipe, stack)
    assert torch.equal(video(pipe), eager)
    remove_acceleration(pipe)
    assert torch.equal(video(pipe), plain)
