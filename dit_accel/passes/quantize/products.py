"""The ways to multiply: each gives the same integers, and is used only where it has shown that it does.

A way that is not exact at the largest values a grid has (8-bit units that saturate in 16 bits, on a CPU without VNNI)
is refused by that trial, whatever the processor says of itself.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from dit_accel.kernels.int8_truth import int_matmul
from dit_accel.registry import Registry

logger = logging.getLogger("dit_accel")

CHUNK = 2**17  # numbers of the output at a time on a CPU: fresh pages for large buffers cost as much as the product
FEWEST_ROWS = 64  # at a time, below which a product is slow
PIECE = 1024  # products of int8 whose sums, all of them, are whole numbers of fp32: 1024 * 128 * 128 = 2^24
TRIAL = (128, 256, 256)  # rows, input and output channels


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A product of int8 matrices.

    Attributes:
        name: In configs and summaries.
        devices: Types of devices that it is for.
        multiply: int8 [M, K] and [N, K] to int32 [M, N].
    """

    name: str
    devices: tuple[str, ...]
    multiply: Callable[[Tensor, Tensor], Tensor]


PRODUCTS: Registry[Product] = Registry("product of integers")


def multiply_int_mm(a: Tensor, b: Tensor) -> Tensor:
    """``torch._int_mm``: oneDNN on a CPU, cuBLASLt on a GPU; sizes that it does not take are filled up with 0."""
    rows, columns, size = a.shape[0], b.shape[0], a.shape[1]
    if a.device.type != "cuda":
        return torch._int_mm(a, b.mT)
    more = (max(32 - rows, -rows % 8), -columns % 8, -size % 8)
    if not any(more):
        return torch._int_mm(a, b.mT)
    a = torch.nn.functional.pad(a, (0, more[2], 0, more[0]))
    b = torch.nn.functional.pad(b, (0, more[2], 0, more[1]))
    return torch._int_mm(a, b.mT)[:rows, :columns]


def multiply_fp32(a: Tensor, b: Tensor) -> Tensor:
    """Whole numbers in fp32, a piece of K at a time, so that no sum is rounded: for CPUs without units for int8."""
    if not _keeps_fp32():
        return int_matmul(a, b)
    found: Tensor | None = None
    for x, y in zip(a.split(PIECE, 1), b.split(PIECE, 1), strict=True):
        part = (x.float() @ y.float().mT).to(torch.int32)
        found = part if found is None else found.add_(part)
    assert found is not None
    return found


@torch.compiler.assume_constant_result  # a graph cannot ask, and is made anew when the answer changes
def _keeps_fp32() -> bool:
    """Whether products of fp32 are those of fp32; else the caller lets them be rounded."""
    return bool(torch.get_float32_matmul_precision() == "highest")


def multiply_triton(a: Tensor, b: Tensor) -> Tensor:
    """Our own kernel, which is loaded by its first use."""
    from dit_accel.kernels.int8_gemm import int8_gemm

    return int8_gemm(a, b)


PRODUCTS.register("triton")(Product(name="triton", devices=("cuda",), multiply=multiply_triton))
PRODUCTS.register("int_mm")(Product(name="int_mm", devices=("cpu", "cuda"), multiply=multiply_int_mm))
PRODUCTS.register("fp32")(Product(name="fp32", devices=("cpu",), multiply=multiply_fp32))
PRODUCTS.register("reference")(Product(name="reference", devices=("cpu", "cuda"), multiply=int_matmul))


@cache
def is_exact(name: str, device: str) -> bool:
    """Whether a product gives the right integers on this machine at the ends of the grid, where units saturate."""
    product = PRODUCTS.get(name)
    if torch.device(device).type not in product.devices:
        return False
    draw = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (64, 128), generator=draw) * 254 - 127
    ends = torch.cat([torch.full((64, 128), 127), torch.full((32, 128), -128), signs]).to(torch.int8)
    try:
        found = product.multiply(ends.to(device), ends.to(device)).cpu()
    except (RuntimeError, NotImplementedError, ImportError) as error:
        logger.warning("'%s' does not run on %s: %s", name, device, " ".join(str(error).split()))
        return False
    exact = torch.equal(found, int_matmul(ends, ends))
    if not exact:
        logger.warning(
            "'%s' saturates on this %s (no VNNI?) and gives wrong sums; quantised layers use another way",
            name,
            device,
        )
    return exact


def exact_products(device: torch.device) -> tuple[Product, ...]:
    """All that are exact on a device; the reference is always among them."""
    names = [name for name in PRODUCTS if device.type in PRODUCTS.get(name).devices]
    return tuple(PRODUCTS.get(name) for name in names if is_exact(name, device.type))


def usual_products(device: torch.device) -> tuple[str, ...]:
    """The names of those that are worth it; the reference where there is nothing else.

    On a CPU one: without VNNI ``torch._int_mm`` may be exact and many times slower than fp32.
    """
    names = tuple(product.name for product in exact_products(device) if product.name != "reference")
    if device.type == "cpu" and len(names) > 1:
        return (_quickest(names),)
    return names or ("reference",)


@cache
def _quickest(names: tuple[str, ...]) -> str:
    rows, size, outputs = TRIAL
    a, b = torch.ones(rows, size, dtype=torch.int8), torch.ones(outputs, size, dtype=torch.int8)

    def seconds(name: str) -> float:
        multiply, best = PRODUCTS.get(name).multiply, float("inf")
        for _ in range(3):
            start = time.perf_counter()
            multiply(a, b)
            best = min(best, time.perf_counter() - start)
        return best

    return min(names, key=seconds)
