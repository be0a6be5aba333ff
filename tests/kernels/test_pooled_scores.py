"""Block statistics of a softmax, in pieces and in several orders, against the whole softmax."""

import pytest
import torch
from sample_attention import relative_error

from dit_accel.kernels import pooled_scores as module
from dit_accel.kernels.block_table import block_lengths
from dit_accel.kernels.pooled_scores import pooled_scores, pooled_sums


def _drawn(num_queries: int = 75, num_keys: int = 91, heads: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, n, heads, 16, generator=draw, dtype=torch.float64) for n in (num_queries, num_keys))


@pytest.mark.parametrize("at_once", [1, 1 << 24])
def test_statistics_are_those_of_the_whole_softmax(monkeypatch, at_once: int) -> None:
    monkeypatch.setattr(module, "SCORES_AT_ONCE", at_once)
    q, k = _drawn()
    found = pooled_scores(q, k, block_q=16, block_k=32, small=0.01)
    weights = (torch.einsum("bqhd,bkhd->bhqk", q, k) / 4).softmax(-1)
    for row in range(5):
        for column in range(3):
            block = weights[..., row * 16 : (row + 1) * 16, column * 32 : (column + 1) * 32]
            assert torch.allclose(found.sums[..., row, column], block.sum((-1, -2)))
            assert torch.allclose(found.maxima[..., row, column], block.amax((-1, -2)))
            assert torch.equal(found.small[..., row, column], (block < 0.01).sum((-1, -2)).double())
    assert torch.allclose(found.sums.sum(-1), block_lengths(75, 16).double().expand(2, 2, -1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [1.0, 4.0, 16.0])
def test_the_kernel_counts_up_the_same(dtype, size: float) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    q, k = (size * part.to(dtype) for part in _drawn(75, 91))
    limits = {torch.float64: 1e-7, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 5e-3}
    limits[torch.float32] *= 20 if size == 16 else 1  # what is left in fp32 of scores with a spread of 1,000
    sizes = {"scale": 0.3 / size, "block_q": 16, "block_k": 32, "small": 0.01}
    found = pooled_scores(q.to(device), k.to(device), backend="triton", **sizes)
    true = pooled_scores(q.double(), k.double(), backend="gather", **sizes)
    assert relative_error(found.sums, true.sums) < limits[dtype]
    assert relative_error(found.maxima, true.maxima) < limits[dtype]
    # A weight that rounding lifts over the limit is counted on the other side of it.
    assert (found.small.cpu().double() - true.small).abs().max() <= (0 if dtype is torch.float64 else 2)


def test_the_kernel_takes_strides_tall_blocks_and_orders() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    q, k = (part.to(device).transpose(1, 2).contiguous().transpose(1, 2) for part in _drawn(100, 150, heads=1))
    found = pooled_scores(q, k, block_q=64, block_k=128, backend="triton")
    true = pooled_scores(q, k, block_q=64, block_k=128, backend="gather")
    assert torch.allclose(found.sums, true.sums) and torch.equal(found.small, true.small)
    q, k = (part.to(device) for part in _drawn(40, 40, heads=1))
    orders = torch.stack([torch.arange(40), torch.randperm(40, generator=torch.Generator().manual_seed(1))])
    both = [pooled_sums(q, k, orders, block=16, backend=backend) for backend in ("triton", "gather")]
    assert torch.allclose(*both)


@pytest.mark.parametrize("at_once", [1, 1 << 24])
def test_sums_in_several_orders_are_those_of_permuted_tokens(monkeypatch, at_once: int) -> None:
    monkeypatch.setattr(module, "SCORES_AT_ONCE", at_once)
    q, k = _drawn(75, 75)
    orders = torch.stack([torch.arange(75), torch.randperm(75, generator=torch.Generator().manual_seed(1))])
    found = pooled_sums(q, k, orders, block=16)
    for order, sums in zip(orders, found, strict=True):
        assert torch.allclose(sums, pooled_scores(q[:, order], k[:, order], block_q=16, block_k=16).sums)
