"""The ways to multiply: the same integers by all of them, and which one is taken."""

import logging
import time

import pytest
import torch
from torch import nn

from dit_accel.errors import ConfigError
from dit_accel.kernels.int8_truth import int_matmul
from dit_accel.passes.quantize import products
from dit_accel.passes.quantize.layer import QuantLinear, Step, reference
from dit_accel.passes.quantize.products import (
    PRODUCTS,
    Product,
    exact_products,
    is_exact,
    multiply_fp32,
    multiply_int_mm,
    usual_products,
)
from dit_accel.passes.quantize.replaced import turned
from dit_accel.passes.quantize.scheme import QuantScheme
from dit_accel.passes.quantize.ways import Choice, Ways, bucket, candidates, in_one_operator, timed
from dit_accel.passes.quantize.weights import quantise_weight

CPU = torch.device("cpu")
SCHEMES = ("w8a8", "w8a8-wasym-aasym", "w8a8-had", "w8a8-tensor", "w4a8", "w4a8-channel", "w4a4-had", "w4a16", "fp8")


def layer_of(scheme: str, size: int = 64, outputs: int = 48, device: str = "cpu") -> QuantLinear:
    known = QuantScheme.parse(scheme)
    torch.manual_seed(0)
    plain = nn.Linear(size, outputs).requires_grad_(False).to(device)
    return QuantLinear(plain, quantise_weight(turned(plain.weight, known, None), known), known, Step())


def rows(count: int, size: int = 64) -> torch.Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("count", "size", "outputs"), [(1, 64, 48), (600, 64, 48), (17, 77, 33)])
def test_every_way_is_the_reference(scheme: str, count: int, size: int, outputs: int) -> None:
    layer, x = layer_of(scheme, size, outputs), rows(count, size)
    wanted = reference(layer, x)
    for each in candidates(layer, CPU, "auto"):
        found = each.way(layer, x)
        if each.name == "dequantise":
            assert float((found - wanted).norm() / wanted.norm()) < 0.2
        elif scheme == "fp8":  # sums of floats, in the order of whoever sums
            assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-5)
        else:
            assert torch.equal(found, wanted)


def test_the_operator_is_the_reference_too(monkeypatch) -> None:
    layer, x = layer_of("w4a8"), rows(19)
    assert torch.allclose(in_one_operator(layer, x), reference(layer, x), rtol=1e-6, atol=1e-6)


def test_an_outlier_among_tokens_moves_no_other() -> None:
    """CLIP's first token, which MixDQ keeps apart: with a scale for each token there is nothing to keep apart."""
    x = rows(20)
    loud = torch.cat([x[:1] * 500, x[1:]])
    for scheme, disturbed in (("w8a8", False), ("w8a8-tensor", True)):
        layer = layer_of(scheme)
        calm, found = layer.quantised(x)[0], layer.quantised(loud)[0]
        assert torch.equal(found[1:], calm[1:]) is not disturbed
    error = (layer(loud)[1:] - layer(x)[1:]).norm() / layer(x)[1:].norm()
    assert error > 0.3


@pytest.mark.parametrize(("count", "size", "outputs"), [(1, 7, 3), (16, 64, 8), (33, 129, 65)])
def test_int_mm_of_any_size(count: int, size: int, outputs: int) -> None:
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randint(-128, 128, (n, size), generator=draw).to(torch.int8) for n in (count, outputs))
    assert torch.equal(multiply_int_mm(a, b), int_matmul(a, b))


@pytest.mark.parametrize("size", [7, 1024, 1025, 3000])
def test_fp32_rounds_no_sum(size: int) -> None:
    """At the ends of the grid, where a sum of a thousand products fills what fp32 has, and off by one at the end."""
    a = torch.full((2, size), -128, dtype=torch.int8)
    b = torch.cat([a[:1], torch.full((1, size), 127, dtype=torch.int8)])
    b[1, -1] = 126
    assert torch.equal(multiply_fp32(a, b), int_matmul(a, b))


def test_a_cpu_multiplies_by_what_is_quicker_on_it(monkeypatch) -> None:
    def slow(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        time.sleep(0.2)
        return int_matmul(a, b)

    products._quickest.cache_clear()
    is_exact.cache_clear()
    with PRODUCTS.temporarily("int_mm", Product(name="int_mm", devices=("cpu",), multiply=slow)):
        assert usual_products(CPU) == ("fp32",)
    products._quickest.cache_clear()
    is_exact.cache_clear()
    assert usual_products(CPU)[0] in ("int_mm", "fp32")


def test_fp32_is_left_alone_where_it_may_be_rounded() -> None:
    a = torch.randint(-128, 128, (40, 900), generator=torch.Generator().manual_seed(0)).to(torch.int8)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(multiply_fp32(a, a), int_matmul(a, a))
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_product_that_saturates_is_not_used(monkeypatch, caplog) -> None:
    """As 8-bit units without VNNI do: pairs of products are summed in 16 bits."""

    def saturating(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        pairs = a[:, None, ::2].int() * b[None, :, ::2].int() + a[:, None, 1::2].int() * b[None, :, 1::2].int()
        return pairs.clamp(-(2**15), 2**15 - 1).sum(-1, dtype=torch.int32)

    is_exact.cache_clear()
    with (
        PRODUCTS.temporarily("int_mm", Product(name="int_mm", devices=("cpu",), multiply=saturating)),
        caplog.at_level(logging.WARNING, "dit_accel"),
    ):
        assert [product.name for product in exact_products(CPU)] == ["fp32", "reference"]
        assert "saturates" in caplog.text
        layer, x = layer_of("w8a8"), rows(20)
        layer.way = Ways("integers")
        assert torch.equal(layer(x), reference(layer, x))
        with pytest.raises(ConfigError, match="does not multiply integers exactly"):
            candidates(layer, CPU, "int_mm")
    is_exact.cache_clear()
    assert products.is_exact("int_mm", "cpu")


def test_a_product_that_fails_is_not_used(caplog) -> None:
    def failing(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such instruction")

    with PRODUCTS.temporarily("new", Product(name="new", devices=("cpu",), multiply=failing)):
        assert not is_exact("new", "cpu") and "no such instruction" in caplog.text
    is_exact.cache_clear()


def test_the_fastest_is_taken_once_for_a_shape(monkeypatch) -> None:
    from dit_accel.passes.quantize import ways as module

    monkeypatch.setattr(module, "_TIMED", {})
    asked = []

    def timing(layer: QuantLinear, x: torch.Tensor, among: list[Choice]) -> Choice:
        asked.append(len(x))
        return Choice(among[-1].name, among[-1].way, 1.01)

    monkeypatch.setattr(module, "timed", timing)
    layer = layer_of("w8a8")
    layer.way = mine = Ways("auto")
    for count in (100, 128, 129):
        layer(rows(count))
    assert asked == [100, 129]  # 128 is of the shape of 100
    choice = mine.choice(layer, rows(100))
    assert choice.name == "dequantise" and choice.gain == 1.01
    other = Ways("auto")
    other.choice(layer, rows(100))
    assert asked == [100, 129]  # another pipeline of this process
    assert [bucket(count) for count in (0, 1, 2, 3, 4096, 4097)] == [1, 1, 2, 4, 4096, 8192]


def test_a_way_is_refused_where_no_device_of_the_machine_has_it() -> None:
    """A pipeline on the CPU of a machine with a GPU may stay there, or be moved."""
    layer, gpu = layer_of("w8a8"), torch.device("cuda")
    assert Ways("fp32").prepare(layer, [CPU, gpu]) == [CPU]
    with pytest.raises(ConfigError, match="does not multiply integers exactly on this cpu"):
        Ways("triton").prepare(layer, [CPU])


def test_one_for_a_gpu_is_taken_by_a_pipeline_that_is_to_be_moved_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from dit_accel.passes.quantize import ways as module

    monkeypatch.setattr(module, "is_exact", lambda name, device: name == "triton" and device == "cuda")
    gpu = torch.device("cuda")
    assert Ways("triton").prepare(layer_of("w8a8"), [CPU, gpu]) == [gpu]


def test_times_are_of_what_they_are_said_to_be() -> None:
    layer, x = layer_of("w8a8", 256, 256), rows(64, 256)

    def slow(layer: QuantLinear, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.2)  # slower than any multiplication of this size, VNNI or not
        return x

    quick = candidates(layer, CPU, "int_mm")[0]
    found = timed(layer, x, [Choice("slow", slow), quick])
    assert found.name == "int_mm" and found.gain is not None and found.gain > 0


@pytest.mark.parametrize(("integers", "taken"), [(0.97, "dequantise"), (0.9, "int_mm"), (1.1, "dequantise")])
def test_integers_have_to_be_faster_by_more_than_noise(monkeypatch, integers: float, taken: str) -> None:
    from dit_accel.passes.quantize import ways as module

    times = iter((1.0, integers, 1.0))  # the plain layer, then the ways in turn
    monkeypatch.setattr(module, "seconds", lambda run, device: next(times))
    layer, x = layer_of("w8a8"), rows(20)
    found = timed(layer, x, [*candidates(layer, CPU, "int_mm"), Choice("dequantise", reference)])
    assert found.name == taken


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu(scheme: str, dtype: torch.dtype) -> None:
    layer = layer_of(scheme, 256, 192, "cuda").to(dtype)
    x = rows(300, 256).to("cuda", dtype)
    wanted = reference(layer, x).float()
    for each in candidates(layer, x.device, "auto"):
        found = each.way(layer, x).float()
        assert float((found - wanted).norm() / wanted.norm()) < (0.2 if each.name == "dequantise" else 0.01), each.name
