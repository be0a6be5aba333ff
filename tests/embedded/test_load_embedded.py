"""The pipeline that ships loads both ways, draws, stays small, and brings its card and its licences."""

import itertools

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from dit_accel.embedded import embedded_path, list_embedded, load_embedded
from dit_accel.errors import ConfigError
from dit_accel.prompts import PROMPT_LISTS, load_prompts

NAME = "emoji-pixart"


@pytest.fixture(scope="module")
def pipe() -> DiffusionPipeline:
    pipe = load_embedded(NAME)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: DiffusionPipeline, prompt: str = "a red apple", steps: int = 4, **kwargs: object) -> np.ndarray:
    generator = torch.Generator("cpu").manual_seed(0)
    images = pipe(prompt, num_inference_steps=steps, generator=generator, output_type="np", **kwargs).images
    return np.asarray(images)


def test_it_is_listed() -> None:
    assert NAME in list_embedded()
    assert (embedded_path(NAME) / "model_index.json").is_file()


def test_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'emoji-pixart'"):
        load_embedded("emoji-pixrt")


def test_a_red_apple_is_red_on_white(pipe: DiffusionPipeline) -> None:
    image = draw(pipe, steps=20)[0]
    assert image[:4, :4].mean() > 0.85, "corner is white"
    red, green, blue = image[24:48, 20:44].mean(axis=(0, 1))
    assert red > green + 0.2 and red > blue + 0.2


def test_diffusers_loads_the_same_pipeline(pipe: DiffusionPipeline) -> None:
    stock = DiffusionPipeline.from_pretrained(embedded_path(NAME))
    stock.set_progress_bar_config(disable=True)
    assert type(stock) is diffusers.PixArtAlphaPipeline
    assert {stock.text_encoder.dtype, stock.transformer.dtype, stock.vae.dtype} == {torch.float32}
    padded_to_120 = draw(stock, use_resolution_binning=False)
    np.testing.assert_allclose(padded_to_120, draw(pipe), atol=2e-3)
    with pytest.raises(ValueError, match="Invalid sample size"):
        stock("a red apple")


def test_prompt_lists_are_disjoint_and_long_enough() -> None:
    lists = {name: load_prompts(name) for name in PROMPT_LISTS}
    for content in lists.values():
        assert content.version == 1 and content.kind == "image"
        assert len(set(content.prompts)) == len(content.prompts) == len(content.labels["heldout"])
    for a, b in itertools.combinations(lists.values(), 2):
        assert not set(a.prompts) & set(b.prompts)
        assert not set(a.labels["concepts"]) & set(b.labels["concepts"])
    assert len(lists["certify"].prompts) >= 200
    assert len(lists["search"].prompts) >= 100
    assert not any(lists["demo"].labels["heldout"])


def test_an_unknown_prompt_list_is_named() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'certify'"):
        load_prompts("certfy")
    with pytest.raises(ConfigError, match="known: image, video"):
        load_prompts("demo", "audio")
