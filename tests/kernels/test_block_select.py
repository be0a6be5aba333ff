"""Blocks chosen on the device: against a loop over rows, with text, ragged ends, and nothing read back."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dit_accel.kernels.block_select import (
    block_means,
    blocks_of_mass,
    kept_of,
    mean_scores,
    table_of_best,
    table_of_mass,
)

DRAW = torch.Generator().manual_seed(0)


class NoWaiting(TorchDispatchMode):
    """Refuses whatever would read a value back from a device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert "_local_scalar_dense" not in str(func) and "nonzero" not in str(func), f"{func} waits"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("length", [5, 16, 75])
def test_means_are_over_the_tokens_that_there_are(length: int) -> None:
    tokens = torch.randn(2, length, 3, 4, generator=DRAW, dtype=torch.float64)
    means = block_means(tokens, 16)
    for block in range(-(-length // 16)):
        assert torch.allclose(means[:, :, block], tokens[:, block * 16 : (block + 1) * 16].mean(1))
    key_mask = torch.rand(2, length, generator=DRAW) < 0.5
    key_mask[:, :16] = False
    masked = block_means(tokens, 16, key_mask=key_mask)
    assert (masked[:, :, 0] == 0).all()
    for block in range(1, -(-length // 16)):
        for sample in range(2):
            some = key_mask[sample, block * 16 : (block + 1) * 16]
            part = tokens[sample, block * 16 : (block + 1) * 16][some]
            if len(part):
                assert torch.allclose(masked[sample, :, block], part.mean(0))


def test_the_mean_key_ranks_nothing() -> None:
    q, k = (torch.randn(1, 75, 2, 16, generator=DRAW) for _ in range(2))
    plain = block_means(q, 16) @ block_means(k, 16).mT
    shifted = mean_scores(q, k + 100, block_q=16, block_k=16)
    assert torch.equal(plain.topk(3).indices, shifted.topk(3).indices)


def test_best_blocks_of_each_row_and_text() -> None:
    scores = torch.randn(2, 3, 7, 9, generator=DRAW)
    with NoWaiting():
        table = table_of_best(scores, 3, block_q=16, block_k=16)
    best = torch.zeros(2, 3, 7, 9, dtype=torch.bool).scatter_(-1, scores.topk(3).indices, True)
    assert torch.equal(table.mask, best) and table.lut.shape[-1] == 3
    assert (table.lut.diff(dim=-1) > 0).all(), "ascending"
    for text in (range(2), range(7, 9)):
        with NoWaiting():
            table = table_of_best(scores, 3, block_q=16, block_k=16, text=text, text_rows=range(1, 3))
        others = [block for block in range(9) if block not in text]
        assert table.mask[..., list(text)].all() and table.mask[..., 1:3, :].all()
        kept = table.mask[..., others][:, :, [0, 3, 4, 5, 6]]
        want = torch.zeros(2, 3, 7, 7, dtype=torch.bool).scatter_(-1, scores[..., others].topk(3).indices, True)
        assert torch.equal(kept, want[:, :, [0, 3, 4, 5, 6]])


def test_nan_in_a_key_changes_no_other_choice() -> None:
    """Its block is above all others, as NaN is in torch; which come next is not its business."""
    q, k = (torch.randn(1, 130, 2, 16, generator=DRAW) for _ in range(2))
    clean = mean_scores(q, k, block_q=16, block_k=16)
    k[0, 40, 1, 3] = torch.nan
    mask = table_of_best(mean_scores(q, k, block_q=16, block_k=16), 3, block_q=16, block_k=16).mask
    clean[:, 1, :, 2] = torch.inf
    assert torch.equal(mask, table_of_best(clean, 3, block_q=16, block_k=16).mask) and mask[0, 1, :, 2].all()


def test_blocks_that_hold_a_share() -> None:
    weights = torch.rand(2, 3, 7, 9, generator=DRAW, dtype=torch.float64)
    for mass in (0.05, 0.5, 0.9, 1.0):
        with NoWaiting():
            mask = blocks_of_mass(weights, mass)
            table = table_of_mass(weights, mass, block_q=16, block_k=16, text=range(1), text_rows=range(1))
        held = (weights * mask).sum(-1) / weights.sum(-1)
        assert (held >= mass - 1e-12).all()
        smallest = weights.masked_fill(~mask, torch.inf).amin(-1) / weights.sum(-1)
        assert ((held - smallest < mass) | (mask.sum(-1) == 1)).all(), "no block too many"
        assert torch.equal(table.mask[..., 1:, 1:], mask[..., 1:, 1:]) and table.mask[..., 0].all()
        assert table.mask[..., 0, :].all()
    one = torch.tensor([[0.0, 0.0, 0.0]])
    assert blocks_of_mass(one, 0.5).sum() == 1, "a row of nothing keeps one"


def test_a_share_of_blocks_is_at_least_one() -> None:
    assert [kept_of(density, 10) for density in (0.01, 0.25, 0.5, 1.0)] == [1, 2, 5, 10]
