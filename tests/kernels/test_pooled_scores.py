"""Block statistics of a softmax, in pieces and in several orders, against the whole softmax."""

import pytest
import torch

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


@pytest.mark.parametrize("at_once", [1, 1 << 24])
def test_sums_in_several_orders_are_those_of_permuted_tokens(monkeypatch, at_once: int) -> None:
    monkeypatch.setattr(module, "SCORES_AT_ONCE", at_once)
    q, k = _drawn(75, 75)
    orders = torch.stack([torch.arange(75), torch.randperm(75, generator=torch.Generator().manual_seed(1))])
    found = pooled_sums(q, k, orders, block=16)
    for order, sums in zip(orders, found, strict=True):
        assert torch.allclose(sums, pooled_scores(q[:, order], k[:, order], block_q=16, block_k=16).sums)
