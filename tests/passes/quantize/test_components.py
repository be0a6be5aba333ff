"""Text encoders and the VAE, which lie beside the denoiser."""

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from snapshot import assert_same, snapshot
from torch import nn

from dit_accel import QuantizeConfig, accelerate_pipeline, accelerated, load_embedded, remove_acceleration, summary
from dit_accel.errors import ConfigError
from dit_accel.passes.quantize.components import EncoderLinear, layers_of_component
from dit_accel.passes.quantize.layer import QuantLinear
from dit_accel.passes.quantize.replaced import bytes_of

BESIDE = {"text_encoder": "w8a8", "vae.decoder": "w8a8"}


def draw(pipe: Any) -> torch.Tensor:
    with torch.no_grad():
        images = pipe(
            "a red apple", num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="pt"
        )
    drawn: torch.Tensor = images.images
    return drawn


def test_text_encoder_and_vae(embedded: Callable[[str], Any]) -> None:
    pipe = embedded("emoji-flux")
    plain = draw(pipe)
    before = snapshot(pipe)
    modules = [pipe.transformer, pipe.text_encoder, pipe.vae.decoder]
    parameters = [dict(module.named_parameters()) for module in modules]
    taken = sum(bytes_of(module) for module in modules)
    accelerate_pipeline(pipe, [QuantizeConfig(bits="w8a8", components=BESIDE, backend="integers")])
    assert any(isinstance(module, EncoderLinear) for module in pipe.text_encoder.modules())
    assert any(isinstance(module, QuantLinear) for module in pipe.vae.decoder.modules())
    drawn = draw(pipe)
    assert 0 < float((drawn - plain).square().mean()) < 1e-3
    effect = summary(pipe).denoisers[0].effects["quantize"]
    assert effect.total == taken
    assert effect.actual_frac == pytest.approx(1 - sum(bytes_of(module) for module in modules) / taken)
    remove_acceleration(pipe)
    assert_same(snapshot(pipe), before)
    for module, kept in zip(modules, parameters, strict=True):
        assert all(parameter is kept[name] for name, parameter in module.named_parameters())
    assert torch.equal(draw(pipe), plain)


def test_t5_reads_the_dtype_of_a_weight(embedded: Callable[[str], Any]) -> None:
    """Half of emoji-flux's text is read by a T5, which would cast its input to the dtype of a weight that it finds."""
    pipe = embedded("emoji-flux")
    plain = draw(pipe)
    config = QuantizeConfig(bits="w8a8", components={"text_encoder_2": "w4a8"}, backend="integers")
    with accelerated(pipe, [config]):
        assert float((draw(pipe) - plain).square().mean()) < 1e-2
        layer = next(each for each in pipe.text_encoder_2.modules() if isinstance(each, EncoderLinear))
        with pytest.raises(RuntimeError, match=r"size|shape|broadcast"):
            layer.weight.data += torch.ones(3, 3).to(layer.weight.dtype)


def test_a_copy_of_a_text_encoder_without_its_originals() -> None:
    pipe = load_embedded("emoji-flux")
    config = QuantizeConfig(components={"text_encoder_2": "w8a8"}, originals="drop", backend="integers")
    accelerate_pipeline(pipe, [config])
    drawn = draw(pipe)
    pipe.text_encoder_2 = copy.deepcopy(pipe.text_encoder_2)
    assert any(isinstance(module, EncoderLinear) for module in pipe.text_encoder_2.modules())
    assert torch.equal(draw(pipe), drawn)


def test_convolutions_that_cannot_be_quantised_are_left_as_they_are() -> None:
    reflected = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
    part = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=4), reflected, nn.Conv2d(4, 4, 3, padding="same"), nn.Conv2d(4, 4, 3)
    )
    assert [name for name, _ in layers_of_component(SimpleNamespace(part=part), "part")] == ["part.3"]


def test_parts_that_there_are_not(embedded: Callable[[str], Any]) -> None:
    pipe = embedded("emoji-flux")
    with pytest.raises(ConfigError, match=r"no part 'text_encodr'. Did you mean 'text_encoder'"):
        accelerate_pipeline(pipe, [QuantizeConfig(components={"text_encodr": "w8a8"})])
    with pytest.raises(ConfigError, match="components must be names"):
        QuantizeConfig(components=["text_encoder"])  # type: ignore[arg-type]
