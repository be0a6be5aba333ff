"""One way to call any pipeline: seeds, batches, and what is passed on."""

import pytest
import torch
from tiny import tiny_pipeline
from tiny_text import tiny_text_pipeline
from tiny_videos import TINY_VIDEO_NAMES, tiny_video_pipeline

from dit_accel.errors import ConfigError
from dit_accel.pipelines.generation import (
    GenerationSettings,
    call_arguments,
    fps_of,
    generate,
    generate_images,
    makes_video,
    steps_of,
)

SETTINGS = GenerationSettings(num_inference_steps=3)
CLIP = GenerationSettings(num_inference_steps=2, height=32, width=64, num_frames=9)


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
    with pytest.raises(ConfigError, match="num_frames"):
        GenerationSettings(num_frames=0)


def test_unknown_setting_of_a_pipeline_is_one_error() -> None:
    class NoHeight:
        def __call__(self, prompt: str) -> None: ...

    with pytest.raises(ConfigError, match="has no setting 'height'"):
        call_arguments(NoHeight(), GenerationSettings(height=8))


@pytest.mark.parametrize("name", TINY_VIDEO_NAMES)
def test_every_video_family_gives_frames_of_one_layout_and_range(name: str) -> None:
    pipe = tiny_video_pipeline(name)
    assert makes_video(pipe)
    together = generate(pipe, ["a red apple", "an owl"], [3, 4], CLIP)
    assert together.shape == (2, 7 if name == "mochi" else 9, 3, 32, 64)  # Mochi's frames come in sixes
    assert (together.dtype, together.device.type) == (torch.float32, "cpu")
    assert 0 <= together.min() < together.max() <= 1
    assert torch.allclose(together[1:], generate(pipe, ["an owl"], [4], CLIP), atol=1e-3)
    assert not torch.allclose(together[:1], generate(pipe, ["a red apple"], [5], CLIP), atol=1e-2)


def test_images_and_videos_are_told_apart() -> None:
    pipe = tiny_text_pipeline()
    assert not makes_video(pipe)
    assert torch.equal(generate(pipe, ["an owl"], [3], SETTINGS), generate_images(pipe, ["an owl"], [3], SETTINGS))
    with pytest.raises(ConfigError, match="makes images, not video"):
        generate(pipe, ["an owl"], [0], GenerationSettings(num_frames=5))
    with pytest.raises(ConfigError, match="makes video"):
        generate_images(tiny_video_pipeline(), ["an owl"], [0], CLIP)


def test_frames_go_by_the_name_that_the_pipeline_has_for_them() -> None:
    class Sana:
        def __call__(self, prompt: str, frames: int = 81, frame_rate: float = 30.0) -> None: ...

    assert call_arguments(Sana(), GenerationSettings(num_frames=5)) == {"frames": 5}
    assert fps_of(Sana(), 16) == 30


def test_fps_suit_the_clip() -> None:
    wan = tiny_video_pipeline("wan")
    assert (fps_of(wan, 16), fps_of(wan, 81)) == (8, 16)
    assert fps_of(tiny_video_pipeline("ltx"), 16) == 25


def test_what_needs_more_than_a_prompt_is_refused() -> None:
    class ImageToVideo:
        def __call__(self, image: object, prompt: str = "", num_frames: int = 81) -> None: ...

    with pytest.raises(ConfigError, match="needs image besides a prompt"):
        generate(ImageToVideo(), ["an owl"], [0], SETTINGS)


def test_what_makes_something_else_is_refused() -> None:
    class Mesh:
        def __call__(self, prompt: str, num_frames: int = 5, **more: object) -> None: ...

    with pytest.raises(ConfigError, match="makes no videos"):
        generate(Mesh(), ["an owl"], [0], GenerationSettings())


@pytest.mark.parametrize("name", ["wan", "pixart"])
def test_pipelines_that_cannot_read_a_prompt_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="without a text encoder"):
        generate(tiny_pipeline(name), ["an owl"], [0], SETTINGS)
