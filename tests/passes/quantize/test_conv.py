"""Convolutions on integers, and where a UNet joins a skip connection to its stream."""

import copy
from typing import Any

import pytest
import torch
from snapshot import assert_same, snapshot
from tiny import tiny_call, tiny_pipeline
from torch import nn

from dit_accel import QuantizeConfig, accelerate_pipeline, accelerated, remove_acceleration, summary
from dit_accel.errors import UnsupportedModelError
from dit_accel.passes.quantize import conv as module
from dit_accel.passes.quantize.conv import QuantConv2d, SplitConv2d, skip_channels, why_not
from dit_accel.passes.quantize.layer import Step
from dit_accel.passes.quantize.replaced import turned
from dit_accel.passes.quantize.scheme import QuantScheme
from dit_accel.passes.quantize.ways import Ways
from dit_accel.passes.quantize.weights import quantise_weight

CONVS = QuantizeConfig(bits="w8a8", convs="w8a8", backend="integers")


def run(pipe: Any) -> torch.Tensor:
    first = pipe(**tiny_call("sd", num_inference_steps=3))[0]
    return first if isinstance(first, torch.Tensor) else torch.stack(list(first))


def quant_conv(conv: nn.Conv2d, scheme: str = "w8a8") -> QuantConv2d:
    known = QuantScheme.parse(scheme)
    matrix = turned(conv.weight.detach().flatten(1), known, None)
    layer = QuantConv2d(conv.requires_grad_(False), quantise_weight(matrix, known), known, Step())
    layer.way = Ways("integers")
    return layer


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(6, 10, 3, padding=1),
        nn.Conv2d(6, 10, 1, bias=False),
        nn.Conv2d(6, 10, 3, stride=2, padding=1),
        nn.Conv2d(6, 10, (3, 1), padding=(2, 0), dilation=(2, 1)),
    ],
)
def test_windows_are_a_convolution(conv: nn.Conv2d, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 6, 9, 7, generator=torch.Generator().manual_seed(0))
    wanted = conv(x).detach()
    for layer in (quant_conv(conv), quant_conv(conv, "w8a8-had")):
        found = layer(x)
        assert found.shape == wanted.shape
        assert float((found - wanted).norm() / wanted.norm()) < 0.02
        multiplied = layer.multiplied_out(x)
        assert float((multiplied - wanted).norm() / wanted.norm()) < 0.01
    layer = quant_conv(conv)
    found = layer(x)
    monkeypatch.setattr(module, "WINDOWS_BYTES", 1500)  # a row or two of the output at a time
    assert torch.equal(layer(x), found)
    layer.way = Ways("auto")
    layer(x)
    assert not layer.quick  # nothing is timed that would take so much memory


def test_the_faster_of_both_is_chosen_once_for_a_shape() -> None:
    layer = quant_conv(nn.Conv2d(6, 10, 3, padding=1))
    layer.way = Ways("auto")
    x = torch.randn(2, 6, 8, 8)
    layer(x)
    assert set(layer.quick) == {(2, 6, 8, 8)}
    layer.quick[2, 6, 8, 8] = True
    assert torch.equal(layer(x), layer.on_rows(x))
    layer.quick[2, 6, 8, 8] = False
    assert torch.equal(layer(x), layer.multiplied_out(x))


def test_where_a_skip_connection_begins() -> None:
    pipe = tiny_pipeline("sd")
    unet = pipe.unet
    joints = skip_channels(unet)
    assert joints
    # What a block is given as its stream is what its first resnet joins the first skip connection to.
    given: dict[str, int] = {}
    handles = []
    for number, block in enumerate(unet.up_blocks):

        def enter(module: nn.Module, args: Any, kwargs: Any, number: int = number) -> None:
            given[f"up_blocks.{number}.resnets.0.conv1"] = kwargs["hidden_states"].shape[1]

        handles.append(block.register_forward_pre_hook(enter, with_kwargs=True))
    run(pipe)
    for handle in handles:
        handle.remove()
    assert len(given) == len(unet.up_blocks) and {path: joints[path] for path in given} == given
    assert all(0 < at < unet.get_submodule(path).in_channels for path, at in joints.items())
    assert skip_channels(nn.Linear(2, 2)) == {}


def test_a_unet_with_convolutions_on_integers() -> None:
    pipe = tiny_pipeline("sd")
    plain, before = run(pipe), snapshot(pipe)
    accelerate_pipeline(pipe, [CONVS])
    unet = pipe.unet
    assert any(isinstance(module, SplitConv2d) for module in unet.modules())
    assert type(unet.conv_in) is nn.Conv2d and type(unet.conv_out) is nn.Conv2d
    drawn = run(pipe)
    error = float((drawn - plain).norm() / plain.norm())
    assert 0 < error < 0.2
    full = summary(pipe).denoisers[0].effects["quantize"]
    assert full.actual_frac == pytest.approx(full.planned_frac, abs=0.05)
    assert not any(isinstance(module, QuantConv2d | SplitConv2d) for module in copy.deepcopy(unet).modules())
    remove_acceleration(pipe)
    assert_same(snapshot(pipe), before)
    assert torch.equal(run(pipe), plain)
    with accelerated(pipe, [QuantizeConfig(convs="w4a8", exact_first=3, backend="integers")]):
        assert torch.equal(run(pipe), plain)


def test_convolutions_that_are_left_as_they_are() -> None:
    assert why_not(nn.Conv2d(4, 4, 3, groups=2)) and why_not(nn.Conv2d(4, 4, 3, padding="same"))
    assert why_not(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"))
    pipe = tiny_pipeline("sd")
    pipe.unet.down_blocks[0].resnets[0].conv1.padding_mode = "circular"
    with accelerated(pipe, [CONVS]):
        assert type(pipe.unet.down_blocks[0].resnets[0].conv1) is nn.Conv2d
    with pytest.raises(UnsupportedModelError, match="it pads by 'circular'"):
        accelerate_pipeline(pipe, [QuantizeConfig(layers={"unet.down_blocks.0.resnets.0.conv1": "w8a8"})])
