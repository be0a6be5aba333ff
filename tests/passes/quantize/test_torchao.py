"""torchao as a way to multiply, and as a check of our numbers; where it is not installed, what is said of that."""

import importlib.util
from typing import Any

import pytest
import torch
from tiny import tiny_call, tiny_pipeline
from torch import nn

from dit_accel import QuantizeConfig, accelerate_pipeline, accelerated, is_accelerated
from dit_accel.errors import MissingDependencyError
from dit_accel.passes.quantize import by_torchao as module
from dit_accel.passes.quantize.layer import QuantLinear, Step, reference
from dit_accel.passes.quantize.replaced import turned
from dit_accel.passes.quantize.scheme import QuantScheme
from dit_accel.passes.quantize.ways import Ways, candidates
from dit_accel.passes.quantize.weights import quantise_weight

CPU = torch.device("cpu")
needs_torchao = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")


def layer_of(scheme: str, size: int, outputs: int, smooth: torch.Tensor | None = None) -> QuantLinear:
    known = QuantScheme.parse(scheme)
    torch.manual_seed(0)
    plain = nn.Linear(size, outputs).requires_grad_(False)
    weight = quantise_weight(turned(plain.weight, known, smooth), known)
    return QuantLinear(plain, weight, known, Step(), inverse_smooth=smooth)


def rows(count: int, size: int) -> torch.Tensor:
    x = torch.randn(count, size, generator=torch.Generator().manual_seed(1))
    return x * torch.logspace(-1, 1, count)[:, None]  # tokens of many sizes


@needs_torchao
@pytest.mark.parametrize("scheme", ["w8a8", "w8a8-had", "w4a8", "w4a8-channel"])
@pytest.mark.parametrize(("count", "size", "outputs"), [(1, 64, 48), (60, 256, 128), (33, 76, 24)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_multiplies_our_weights(scheme: str, count: int, size: int, outputs: int, dtype: torch.dtype) -> None:
    smooth = torch.linspace(0.5, 2.0, size) if scheme == "w8a8" else None
    layer, x = layer_of(scheme, size, outputs, smooth).to(dtype), rows(count, size).to(dtype)
    (choice,) = candidates(layer, CPU, "torchao")
    assert choice.name == "torchao"
    found, wanted = choice.way(layer, x), reference(layer, x)
    assert found.dtype == dtype and found.shape == wanted.shape
    off = (found.float() - wanted).norm(dim=1) / wanted.norm(dim=1)
    assert float(off.max()) < 0.02, "another rounding of the activations, nothing else"
    layer.way = Ways("torchao")
    assert torch.equal(layer(x[None])[0], found)


@needs_torchao
@pytest.mark.parametrize("scheme", ["w8a8-wasym", "w8a8-aasym", "w8a8-tensor", "w4a4", "w4a16"])
def test_what_it_does_not_know_is_done_by_us(scheme: str) -> None:
    layer = layer_of(scheme, 64, 48)
    assert not module.fits_torchao(layer)
    choice = candidates(layer, CPU, "torchao")[0]
    assert choice.name != "torchao" and torch.isfinite(choice.way(layer, rows(5, 64))).all()


@needs_torchao
def test_its_own_rounding_is_as_good_as_ours() -> None:
    """Its grid has one point more on one side, so the integers differ, and the error is the same."""
    torchao = pytest.importorskip("torchao.quantization")
    layer, x = layer_of("w8a8", 256, 128), rows(64, 256)
    assert layer.original is not None
    wanted = layer.original(x)
    theirs = nn.Sequential(nn.Linear(256, 128).requires_grad_(False))
    theirs[0].load_state_dict(layer.original.state_dict())
    torchao.quantize_(theirs, torchao.Int8DynamicActivationInt8WeightConfig(version=2))
    errors = [float((found - wanted).norm()) for found in (layer(x), theirs(x))]
    assert errors[0] == pytest.approx(errors[1], rel=0.1)


def drawn(pipe: Any) -> torch.Tensor:
    first = pipe(**tiny_call("pixart", num_inference_steps=2))[0]
    return first if isinstance(first, torch.Tensor) else torch.stack(list(first))


@needs_torchao
def test_a_whole_pipeline() -> None:
    pipe = tiny_pipeline("pixart")
    plain = drawn(pipe)
    with accelerated(pipe, [QuantizeConfig(backend="torchao")]):
        theirs = drawn(pipe)
    with accelerated(pipe, [QuantizeConfig(backend="integers")]):
        ours = drawn(pipe)
    assert 0 < float((theirs - plain).norm()) < 2 * float((ours - plain).norm())
    assert torch.equal(drawn(pipe), plain)


def test_without_it_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    pipe = tiny_pipeline("pixart")
    with pytest.raises(MissingDependencyError, match=r"dit-accel\[torchao\]"):
        candidates(layer_of("w8a8", 64, 48), CPU, "torchao")
    with pytest.raises(MissingDependencyError, match="torchao"):
        accelerate_pipeline(pipe, [QuantizeConfig(backend="torchao")])
    assert not is_accelerated(pipe)
    with accelerated(pipe, [QuantizeConfig(backend="integers")]):
        pass
