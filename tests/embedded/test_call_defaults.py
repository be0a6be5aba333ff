"""Pipelines of ours differ from the stock ones in their call's defaults, and their signatures say so."""

import inspect
from typing import Any

import diffusers
import pytest
import torch
from tiny_videos import tiny_video_pipeline

from dit_accel.embedded import flux, pixart, wan
from dit_accel.pipelines.generation import GenerationSettings, steps_of


@pytest.mark.parametrize("module", [flux, pixart, wan], ids=lambda module: module.__name__.rpartition(".")[2])
def test_the_signature_tells_the_defaults(module: Any) -> None:
    ours = next(value for name, value in vars(module).items() if name.endswith("Pipeline"))
    stock = getattr(diffusers, ours.__name__)
    parameters = inspect.signature(ours.__call__).parameters
    for name, parameter in inspect.signature(stock.__call__).parameters.items():
        assert parameters[name].default == module.CALL_DEFAULTS.get(name, parameter.default)
    assert set(module.CALL_DEFAULTS) <= set(parameters)
    assert ours.__call__.__doc__ == stock.__call__.__doc__


def test_steps_are_those_of_a_plain_call() -> None:
    assert steps_of(_Instance(), GenerationSettings()) == 20


class _Instance(wan.WanPipeline):
    def __init__(self) -> None:
        pass


@pytest.fixture
def pipe() -> Any:
    stock = tiny_video_pipeline("wan")
    pipe = wan.WanPipeline(**stock.components)
    pipe.vae_scale_factor_temporal = 1  # as with an autoencoder that leaves time alone
    pipe.set_progress_bar_config(disable=True)
    return pipe


CALL = {"height": 16, "width": 16, "num_inference_steps": 2, "output_type": "latent"}


@pytest.mark.parametrize("frames", [1, 2, 8, 16])
def test_as_many_frames_as_asked_for(pipe: Any, frames: int, caplog: pytest.LogCaptureFixture) -> None:
    asked = {} if frames == wan.NUM_FRAMES else {"num_frames": frames}
    assert pipe("an owl", **asked, **CALL).frames.shape[2] == frames
    assert pipe.vae_scale_factor_temporal == 1
    assert not caplog.records


def test_arguments_by_position(pipe: Any) -> None:
    by_name = pipe(
        "an owl", negative_prompt="a fish", num_frames=3, generator=torch.Generator().manual_seed(0), **CALL
    )
    by_position = pipe(
        "an owl", "a fish", 16, 16, 3, 2, generator=torch.Generator().manual_seed(0), output_type="latent"
    )
    assert torch.equal(by_name.frames, by_position.frames)
    with pytest.raises(TypeError, match="multiple values"):
        pipe("an owl", prompt="a fish")
    with pytest.raises(TypeError, match="unexpected keyword"):
        pipe("an owl", frames=3)


def test_an_exception_leaves_the_pipeline_as_it_was(pipe: Any) -> None:
    def fail(*args: Any) -> None:
        assert pipe.vae_scale_factor_temporal == 2
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipe("an owl", callback_on_step_end=fail, **CALL)
    assert pipe.vae_scale_factor_temporal == 1
