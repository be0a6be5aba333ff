"""Learned transforms: what they leave as it is, what they need, and that they are worth learning."""

from typing import Any

import pytest
import torch
from tiny import tiny_call, tiny_pipeline
from torch import nn

from dit_accel import AccelerationPlan, QuantizeConfig, accelerated
from dit_accel.errors import ConfigError
from dit_accel.passes.quantize.affine import factors, has_factors, inverse_transformed, restored, transformed
from dit_accel.passes.quantize.layer import QuantLinear, Step, dequantise, reference
from dit_accel.passes.quantize.replaced import turned
from dit_accel.passes.quantize.scheme import QuantScheme
from dit_accel.passes.quantize.ways import candidates
from dit_accel.passes.quantize.weights import quantise_weight


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def matrices(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = factors(size)
    return torch.eye(first) + 0.1 * drawn(first, first), torch.eye(second) + 0.1 * drawn(second, second, seed=1)


@pytest.mark.parametrize(
    ("size", "pair"), [(256, (16, 16)), (1152, (32, 36)), (768, (24, 32)), (77, (7, 11)), (13, (1, 13))]
)
def test_factors_are_near_each_other(size: int, pair: tuple[int, int]) -> None:
    assert factors(size) == pair and has_factors(size) == (pair[0] >= 4)


@pytest.mark.parametrize("size", [48, 77, 256])
def test_it_is_one_kronecker_product_and_its_inverse(size: int) -> None:
    left, right = (each.double() for each in matrices(size))
    x, weight = drawn(9, size).double(), drawn(5, size, seed=2).double()
    whole = torch.kron(left, right)
    assert torch.allclose(transformed(x, left, right), x @ whole, rtol=1e-10, atol=1e-10)
    moved = inverse_transformed(weight, left, right)
    assert torch.allclose(moved, weight @ whole.inverse().mT, rtol=1e-10, atol=1e-10)
    assert torch.allclose(transformed(x, left, right) @ moved.mT, x @ weight.mT, rtol=1e-9, atol=1e-9)
    assert torch.allclose(restored(moved, left, right), weight, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("text", ["w8a8-flat", "w4a4-flat", "w4a16-flat"])
def test_a_layer_with_a_transform(text: str) -> None:
    scheme, plain = QuantScheme.parse(text), nn.Linear(96, 32).requires_grad_(False)
    assert str(scheme) == text
    smooth, affine = torch.linspace(0.5, 2.0, 96), matrices(96)
    weight = quantise_weight(turned(plain.weight, scheme, smooth, affine), scheme)
    layer = QuantLinear(plain, weight, scheme, Step(), inverse_smooth=smooth, affine=affine)
    x = drawn(20, 96)
    wanted = plain(x)
    assert float((layer(x) - wanted).norm() / wanted.norm()) < (0.04 if text.startswith("w8") else 0.3)
    out = nn.functional.linear(x, layer.plain_weight(), plain.bias)
    assert torch.allclose(out, dequantise(layer, x), atol=1e-4)
    for choice in candidates(layer, x.device, "integers"):
        assert torch.equal(choice.way(layer, x), reference(layer, x))


def test_it_is_stored_with_a_plan_and_needed(tmp_path: Any) -> None:
    pipe = tiny_pipeline("pixart")
    name = "transformer.transformer_blocks.0.attn1.to_q"
    size = pipe.transformer.transformer_blocks[0].attn1.to_q.in_features
    only = {"bits": "plain", "modulation": "plain", "layers": {name: "w8a8-flat"}, "backend": "integers"}
    with pytest.raises(ConfigError, match=r"learned transform \(w8a8-flat\) and none is stored.*'w8a8-had'"):
        accelerate(pipe, QuantizeConfig(**only))
    left, right = matrices(size)
    config = QuantizeConfig(**only, stored={f"{name}.left": left, f"{name}.right": right})
    AccelerationPlan(passes=(config,), name="flat").save_pretrained(tmp_path)
    assert AccelerationPlan.from_pretrained(tmp_path).passes[0] == config
    plain = run(pipe)
    with accelerated(pipe, config):
        few = run(pipe)
    assert 0 < float((few - plain).norm() / plain.norm()) < 0.05
    assert torch.equal(run(pipe), plain)
    with pytest.raises(ConfigError, match="'flat' or 'had'"):
        QuantScheme.parse("w4a4-had-flat")


def accelerate(pipe: Any, config: QuantizeConfig) -> None:
    with accelerated(pipe, config):
        pass


def run(pipe: Any) -> torch.Tensor:
    first = pipe(**tiny_call("pixart", num_inference_steps=2))[0]
    return first if isinstance(first, torch.Tensor) else torch.stack(list(first))
