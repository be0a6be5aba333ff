"""One way to call any pipeline: seeds, batches, and what is passed on."""

import pytest
import torch
from tiny import tiny_pipeline
from tiny_text import tiny_text_pipeline

from dit_accel.errors import ConfigError
from dit_accel.generation import GenerationSettings, call_arguments, generate_images, steps_of

SETTINGS = GenerationSettings(num_inference_steps=3)


def test_an_image_depends_on_its_prompt_and_seed_only() -> None:
    pipe = tiny_text_pipeline()
    together = generate_images(pipe, ["a red apple", "an owl"], [3, 4], SETTINGS)
    one_by_one = generate_images(pipe, ["a red apple", "an owl"], [3, 4], SETTINGS, batch_size=1)
    assert together.shape == (2, 3, 64, 64)
    assert torch.allclose(together, one_by_one, atol=1e-5)
    assert not torch.allclose(together[0], generate_images(pipe, ["a red apple"], [5], SETTINGS)[0], atol=1e-2)


def test_only_what_was_asked_for_is_passed() -> None:
    pipe = tiny_text_pipeline()
    assert set(call_arguments(pipe, GenerationSettings())) <= {"use_resolution_binning", "clean_caption"}
    assert call_arguments(pipe, GenerationSettings(height=32, guidance_scale=1.0))["height"] == 32
    assert steps_of(pipe, GenerationSettings()) == 20
    assert steps_of(pipe, SETTINGS) == 3


def test_settings_that_a_pipeline_refuses_are_one_error() -> None:
    with pytest.raises(ConfigError, match="refused to run"):
        generate_images(tiny_text_pipeline(), ["an owl"], [0], GenerationSettings(num_inference_steps=2, height=63))


def test_counts_must_match_and_sizes_be_positive() -> None:
    with pytest.raises(ConfigError, match="as many seeds"):
        generate_images(tiny_text_pipeline(), ["an owl"], [0, 1], SETTINGS)
    with pytest.raises(ConfigError, match="num_inference_steps"):
        GenerationSettings(num_inference_steps=0)


def test_unknown_setting_of_a_pipeline_is_one_error() -> None:
    class NoHeight:
        def __call__(self, prompt: str) -> None: ...

    with pytest.raises(ConfigError, match="has no setting 'height'"):
        call_arguments(NoHeight(), GenerationSettings(height=8))


@pytest.mark.parametrize(("name", "message"), [("wan", "makes video"), ("pixart", "without a text encoder")])
def test_pipelines_that_cannot_draw_a_prompt_are_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        generate_images(tiny_pipeline(name), ["an owl"], [0], SETTINGS)
