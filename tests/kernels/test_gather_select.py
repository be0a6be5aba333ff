"""Which blocks queries choose: against loops and sorts, and how dense a share of random scores is."""

import pytest
import torch

from dit_accel.kernels.gather_pairs import KeyBlocks
from dit_accel.kernels.gather_select import choose_best, choose_share, gates

DRAW = torch.Generator().manual_seed(0)


def random_gate(blocks: int = 6, queries: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, 3, blocks, queries, generator=DRAW), torch.randint(blocks, (queries,), generator=DRAW)


def is_own(gate: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    return torch.arange(gate.shape[2])[:, None] == own


def test_gates_are_means_of_scattered_keys() -> None:
    q, k = (torch.randn(2, n, 3, 16, generator=DRAW, dtype=torch.float64) for n in (20, 31))
    own = torch.arange(31) % 4
    found = gates(q, k, KeyBlocks.of(own))
    for block in range(4):
        assert torch.allclose(found[:, :, block], torch.einsum("bqhd,bhd->bhq", q, k[:, own == block].mean(1)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_gates_of_long_blocks_fit_into_few_bits(dtype) -> None:
    k = torch.randn(1, 70_000, 1, 16, generator=DRAW) + 8.0  # the sum of a block is many times what fp16 holds
    q = torch.randn(1, 8, 1, 16, generator=DRAW)
    blocks = KeyBlocks.of((torch.arange(70_000) >= 30_000).long())
    want = gates(q.double(), k.double(), blocks)
    found = gates(q.to(dtype), k.to(dtype), blocks)
    assert (
        found.isfinite().all() and (found - want).norm() < (0.03 if dtype == torch.bfloat16 else 0.005) * want.norm()
    )


@pytest.mark.parametrize("odd", [torch.nan, torch.inf, -torch.inf])
def test_what_is_no_number_takes_nobodys_own_block(odd: float) -> None:
    gate, own = random_gate()
    gate[:, :, [1, 2, 5]] = odd
    chosen = choose_best(gate, own, 2, "query")
    assert chosen[is_own(gate, own).expand(chosen.shape)].all() and (chosen.sum(2) == 2).all()


def test_each_query_keeps_its_own_block_and_its_best() -> None:
    gate, own = random_gate()
    chosen = choose_best(gate, own, 3, "query")
    assert (chosen.sum(2) == 3).all() and chosen[is_own(gate, own).expand(chosen.shape)].all()
    others = gate.masked_fill(is_own(gate, own), -torch.inf)
    best = torch.zeros_like(chosen).scatter_(2, others.topk(2, dim=2).indices, True)
    assert torch.equal(chosen, best | is_own(gate, own))
    assert choose_best(gate, torch.full((50,), -1), 2, "query").sum() == 2 * 3 * 50 * 2, "those in no block too"


def test_a_head_shares_its_pairs() -> None:
    gate, own = random_gate()
    chosen = choose_best(gate, own, 3, "head")
    mine = is_own(gate, own).expand(chosen.shape)
    assert chosen[mine].all()
    counts = chosen.sum((2, 3))
    assert (counts <= 3 * 50).all() and (counts > 3 * 50 - 5).all(), "whole bins, and no pair too many"
    outside = gate.masked_fill(mine | chosen, -torch.inf).amax((2, 3))
    inside = gate.masked_fill(mine | ~chosen, torch.inf).amin((2, 3))
    assert (inside >= outside).all()


@pytest.mark.parametrize("pool", ["query", "head"])
@pytest.mark.parametrize("share", [0.1, 0.4, 0.8])
def test_a_share_is_the_shortest_list_that_holds_it(pool, share: float) -> None:
    gate, own = random_gate()
    chosen = choose_share(gate, own, share, pool)
    dims = (2,) if pool == "query" else (2, 3)
    low, high = gate.amin(dims, keepdim=True), gate.amax(dims, keepdim=True)
    scores = (gate - low) / (high - low)
    mine = is_own(gate, own).expand(chosen.shape)
    assert chosen[mine].all()
    held = (scores * chosen).sum(dims) / scores.sum(dims)
    # A pool of a head is cut at a bin of 1 / 4096, so a few pairs more or less.
    assert (held >= share - (1e-6 if pool == "query" else 1e-3)).all()
    added = chosen & ~mine
    least = scores.masked_fill(~added, torch.inf).amin(dims, keepdim=True)
    shorter = (scores * (mine | (added & (scores > least + 1 / 4096)))).sum(dims) / scores.sum(dims)
    assert ((shorter < share) | ~added.any(dims)).all(), "no pair too many"


def test_everything_and_only_their_own() -> None:
    gate, own = random_gate()
    for pool in ("query", "head"):
        assert choose_share(gate, own, 1.0, pool).all()
        assert torch.equal(choose_share(gate, own, 0.0, pool), is_own(gate, own).expand(gate.shape))
    one = torch.zeros(1, 1, 1, 4)
    assert choose_share(one, torch.zeros(4, dtype=torch.long), 0.2, "head").all(), (
        "one block, whose scores have no range"
    )


@pytest.mark.parametrize(("share", "density"), [(0.15, 0.106), (0.25, 0.186), (0.35, 0.271), (0.5, 0.407)])
def test_of_random_scores_a_share_is_a_density(share: float, density: float) -> None:
    """Figures of the sorting rule, of 72 blocks and scores from a normal distribution."""
    gate = torch.randn(1, 2, 72, 1500, generator=torch.Generator().manual_seed(1))
    own = torch.arange(1500) * 72 // 1500
    assert choose_share(gate, own, share, "head").float().mean().item() == pytest.approx(density, abs=0.02)
