"""Products of small integers: the truth against whole numbers, and the Triton kernels against the truth."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_accel.kernels.hadamard import block_for, hadamard_matrix, rotate_blocks
from dit_accel.kernels.int4_packing import expand_groups, pack_nibbles, unpack_int8, unpack_nibbles
from dit_accel.kernels.int8_gemm import int8_gemm
from dit_accel.kernels.int8_linear import int8_linear
from dit_accel.kernels.int8_quantise import quantise_rows_triton
from dit_accel.kernels.int8_truth import (
    int8_linear_truth,
    int_matmul,
    quantise_rows,
    quantise_rows_shifted,
    rescale,
)

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"  # without one the kernels run in Triton's interpreter
SIZES = [(1, 5, 3), (17, 64, 33), (70, 136, 65)]


def drawn(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def whole(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(-127, 128, shape, generator=torch.Generator().manual_seed(seed)).to(torch.int8)


@pytest.mark.parametrize(("rows", "size", "columns"), SIZES)
def test_products_are_those_of_whole_numbers(rows: int, size: int, columns: int) -> None:
    a, b = whole(rows, size), whole(columns, size, seed=1)
    exact = a.numpy().astype(np.int64) @ b.numpy().astype(np.int64).T
    assert np.array_equal(int_matmul(a, b).numpy(), exact)


def test_products_are_exact_at_the_ends_of_the_grid() -> None:
    ends = torch.full((2, 32768), -127, dtype=torch.int8)
    assert int_matmul(ends, ends).tolist() == [[32768 * 127 * 127] * 2] * 2


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=12), st.sampled_from([4, 8]))
def test_what_is_rounded_is_at_most_half_a_step_off(row: list[float], bits: int) -> None:
    x = torch.tensor([row])
    values, scale = quantise_rows(x, bits=bits)
    assert int(values.abs().max()) <= 2 ** (bits - 1) - 1
    assert torch.all((values * scale - x).abs() <= scale / 2 * (1 + 1e-5) + 1e-30)
    shifted, step, zero = quantise_rows_shifted(x, bits=bits)
    # The zero is a whole number itself, so that an end of the range may be half a step further off.
    assert torch.all(((shifted - zero) * step - x).abs() <= step * (1 + 1e-5) + 1e-30)
    assert torch.all(zero.abs() <= 2 ** (bits - 1))


def test_rows_of_noughts_and_of_nonsense() -> None:
    x = torch.stack([torch.zeros(8), torch.full((8,), float("nan")), torch.ones(8)])
    out = int8_linear_truth(x, whole(4, 8), torch.ones(4))
    assert torch.equal(out[0], torch.zeros(4)) and out[1].isnan().all() and out[2].isfinite().all()


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_nibbles_come_back(size: int) -> None:
    values = torch.randint(0, 16, (3, size), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    packed = pack_nibbles(values)
    assert packed.shape == (3, -(-size // 2)) and torch.equal(unpack_nibbles(packed, size), values)


def test_a_shorter_last_group_has_its_own_step() -> None:
    values = torch.tensor([[0, 15, 8, 9, 1]], dtype=torch.uint8)
    steps, zeros = (torch.tensor([each], dtype=torch.uint8) for each in ([3, 1, 7], [8, 8, 0]))
    assert expand_groups(values, steps, zeros, 2).tolist() == [[-24, 21, 0, 1, 7]]


@pytest.mark.parametrize("size", [1, 2, 32, 128])
def test_hadamard_matrices_are_orthogonal_and_their_own_inverse(size: int) -> None:
    matrix = hadamard_matrix(size, dtype=torch.float64)
    assert torch.allclose(matrix @ matrix, torch.eye(size, dtype=torch.float64), atol=1e-12)
    x, weight = drawn(3, 4 * size).double(), drawn(5, 4 * size).double()
    turned = rotate_blocks(x, size) @ rotate_blocks(weight, size).mT
    assert torch.allclose(turned, x @ weight.mT, atol=1e-10, rtol=0)


def test_blocks_that_do_not_fit() -> None:
    assert [block_for(size) for size in (1152, 3072, 77, 96)] == [128, 128, 1, 32]
    with pytest.raises(ValueError, match="do not divide"):
        rotate_blocks(torch.ones(1, 6), 4)
    with pytest.raises(ValueError, match="power of two"):
        hadamard_matrix(12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 4.0, 16.0])
def test_rows_are_quantised_to_the_same_integers(dtype: torch.dtype, scale: float) -> None:
    x = drawn(9, 77, scale=scale).to(dtype)
    smooth = drawn(77, seed=1).abs() + 0.1
    for bits in (4, 8):
        for inverse_smooth in (None, smooth):
            given_x = x.float() if inverse_smooth is None else x.float() * smooth
            values, steps = quantise_rows(given_x, bits=bits)
            moved = None if inverse_smooth is None else smooth.to(DEVICE)
            found, found_steps = quantise_rows_triton(x.to(DEVICE), bits=bits, inverse_smooth=moved)
            assert torch.equal(found.cpu(), values) and torch.equal(found_steps.cpu(), steps)


def test_halves_go_to_the_even_integer_in_the_kernel_too() -> None:
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, 126.5]])
    assert quantise_rows(x)[0].tolist() == [[127, 0, 2, 2, 0, -2, 126]]
    assert quantise_rows_triton(x.to(DEVICE))[0].tolist() == [[127, 0, 2, 2, 0, -2, 126]]


@pytest.mark.parametrize("block", [1, 16])
def test_a_row_with_a_nan_has_the_scale_nan_in_the_kernel_too(block: int) -> None:
    x = drawn(4, 48)
    x[1, 7] = x[3, 40] = float("nan")
    steps = quantise_rows_triton(x.to(DEVICE), block=block)[1].cpu()
    assert steps.flatten().isnan().tolist() == [False, True, False, True]
    weight, scale = whole(5, 48), torch.ones(5)
    args = (weight, scale, None, None, None, 0, None, block, 8)
    moved = [each.to(DEVICE) if isinstance(each, torch.Tensor) else each for each in args]
    assert int8_linear(x.to(DEVICE), *moved, True).isnan().any(1).tolist() == [False, True, False, True]


def test_no_product_is_fused_with_a_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interpreter numbers are the same either way, so that what the kernels are started with is asked."""
    from dit_accel.kernels import int8_gemm as gemm
    from dit_accel.kernels import int8_quantise as quantise

    started = []

    class Kernel:
        def __getitem__(self, grid: object) -> Callable[..., None]:
            return lambda *args, **options: started.append(options["enable_fp_fusion"])

    monkeypatch.setattr(gemm, "gemm_kernel", Kernel())
    monkeypatch.setattr(quantise, "quantise_kernel", Kernel())
    int8_linear(drawn(4, 48), whole(5, 48), torch.ones(5), None, None, None, 0, None, 1, 8, True)
    assert started == [False, False]


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a CUDA device: there products and sums may be fused")
def test_millions_of_integers_are_those_of_the_truth() -> None:
    x = drawn(4096, 3072).to(DEVICE)
    smooth = (drawn(3072, seed=1).abs() + 0.1).to(DEVICE)
    values, steps = quantise_rows(x * smooth)
    found, found_steps = quantise_rows_triton(x, inverse_smooth=smooth)
    assert torch.equal(found, values) and torch.equal(found_steps, steps)
    weight, scale, bias = (
        each.to(DEVICE) for each in (whole(512, 3072), drawn(512, seed=2).abs(), drawn(512, seed=3))
    )
    wanted = rescale(int_matmul(values, weight), steps, scale, bias)
    assert torch.equal(int8_gemm(values, weight, steps, scale, bias), wanted)


def test_rotated_rows_differ_by_the_order_of_a_sum_at_most() -> None:
    x = drawn(5, 96)
    values, steps = quantise_rows(rotate_blocks(x, 32))
    found, found_steps = quantise_rows_triton(x.to(DEVICE), block=32)
    assert torch.allclose(found_steps.cpu(), steps, rtol=1e-5)
    assert int((found.cpu().int() - values.int()).abs().max()) <= 1
    with pytest.raises(ValueError, match="do not divide"):
        quantise_rows_triton(drawn(2, 77), block=32)


@pytest.mark.parametrize(("rows", "size", "columns"), SIZES)
def test_the_kernel_sums_the_same_integers(rows: int, size: int, columns: int) -> None:
    a, b = whole(rows, size), whole(columns, size, seed=1)
    assert torch.equal(int8_gemm(a.to(DEVICE), b.to(DEVICE)).cpu(), int_matmul(a, b))
    row_scale, column_scale, bias = drawn(rows, 1).abs(), drawn(columns, seed=2).abs(), drawn(columns, seed=3)
    moved = (each.to(DEVICE) for each in (a, b, row_scale, column_scale, bias))
    wanted = rescale(int_matmul(a, b), row_scale, column_scale, bias)
    assert torch.allclose(int8_gemm(*moved).cpu(), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("group", [32, 64])
@pytest.mark.parametrize("size", [64, 99])
def test_weights_of_4_bits_are_unpacked_on_the_way(group: int, size: int) -> None:
    draw = torch.Generator().manual_seed(0)
    groups = -(-size // group)
    packed = pack_nibbles(torch.randint(0, 16, (33, size), generator=draw))
    steps = torch.randint(1, 9, (33, groups), generator=draw).to(torch.uint8)
    zeros = torch.randint(0, 16, (33, groups), generator=draw).to(torch.uint8)
    a = whole(19, size)
    found = int8_gemm(
        *(each.to(DEVICE) for each in (a, packed)), multiplier=steps.to(DEVICE), zero=zeros.to(DEVICE), group=group
    )
    assert torch.equal(found.cpu(), int_matmul(a, unpack_int8(packed, steps, zeros, group, size)))
    with pytest.raises(ValueError, match="no kernel for groups of 48"):
        int8_gemm(a, packed, multiplier=steps, zero=zeros, group=48)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
def test_the_operator_is_its_truth(dtype: torch.dtype, bias: bool) -> None:
    x, weight, scale = drawn(21, 64).to(dtype), whole(34, 64), drawn(34, seed=1).abs() / 127
    addend = drawn(34, seed=2).to(dtype) if bias else None
    args = (weight, scale, addend, None, None, 0, drawn(64, seed=4).abs() + 0.1, 1, 8)
    moved = [each.to(DEVICE) if isinstance(each, torch.Tensor) else each for each in args]
    found = int8_linear(x.to(DEVICE), *moved, True)
    wanted = int8_linear(x, *args, False)
    assert found.dtype == dtype == wanted.dtype
    assert torch.allclose(found.cpu().float(), wanted.float(), rtol=1e-2 if dtype != torch.float32 else 1e-6)
    torch.library.opcheck(int8_linear, (x, *args, False), test_utils=("test_schema", "test_faketensor"))
