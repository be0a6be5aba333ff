"""Attention over blocks that single queries choose, Triton and CPU, against all scores with a mask in fp64."""

import pytest
import torch
from sample_attention import relative_error

from dit_accel.kernels import gather_attention_launch as launch
from dit_accel.kernels.gather_attention import gather_attention, gather_attention_truth
from dit_accel.kernels.gather_pairs import KeyBlocks, Pairs, tiles_of

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LIMITS = {torch.float32: (1e-5, 1e-4), torch.float16: (2e-3, 1e-2), torch.bfloat16: (5e-3, 2e-2)}


def drawn(num_queries=45, num_keys=53, *, batch=1, heads=2, dim=16, blocks=5, density=0.5, size=1.0):
    """Ragged blocks of scattered keys; query 3 chooses none, query 4 all, and nobody of the first head block 1."""
    draw = torch.Generator().manual_seed(0)
    q = size * torch.randn(batch, num_queries, heads, dim, generator=draw, dtype=torch.float64)
    k, v = (torch.randn(batch, num_keys, heads, dim, generator=draw, dtype=torch.float64) for _ in range(2))
    own = torch.cat([torch.arange(blocks), torch.randint(blocks, (num_keys - blocks,), generator=draw)])
    chosen = torch.rand(batch, heads, blocks, num_queries, generator=draw) < density
    chosen[..., 3], chosen[..., 4] = False, True
    if blocks > 1:
        chosen[:, 0, 1] = False
    return (q, size * k, v), chosen, KeyBlocks.of(own[torch.randperm(num_keys, generator=draw)])


def check(dtype, backend: str, *, scale: float = 0.25, factor: float = 1, capacity: int = 0, **shape) -> None:
    parts, chosen, blocks = drawn(**shape)
    device = DEVICE if backend == "triton" else "cpu"
    found = [part.to(device, dtype).requires_grad_() for part in parts]
    true = [part.detach().to("cpu", torch.float64).requires_grad_() for part in found]
    out, lse = gather_attention(
        *found, chosen.to(device), blocks.to(device), scale=scale, capacity=capacity, backend=backend
    )
    want, want_lse = gather_attention_truth(*true, chosen, blocks.own, scale=scale)
    draw = torch.Generator().manual_seed(9)
    weight, weight_lse = torch.randn(want.shape, generator=draw), torch.randn(want_lse.shape, generator=draw)
    weight = weight.to(dtype)
    for result, sums in ((out, lse), (want, want_lse)):
        finite = torch.where(sums.isfinite(), sums, 0)
        ((result * weight.to(result)).sum() + (finite * weight_lse.to(finite)).sum()).backward()
    limits = LIMITS.get(dtype, (1e-12, 1e-12))
    assert relative_error(out, want) <= limits[0] * factor and relative_error(lse, want_lse) <= limits[0] * factor
    assert (out[:, 3] == 0).all() and (lse[..., 3] == -torch.inf).all()
    for mine, theirs in zip(found, true, strict=True):
        assert relative_error(mine.grad, theirs.grad) <= limits[1] * factor


@pytest.mark.parametrize("size", [1.0, pytest.param(4.0, marks=pytest.mark.slow), 16.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", ["triton", "cpu"])
def test_parity_with_the_truth(backend: str, dtype, size: float) -> None:
    growth = 20 if size == 16 and dtype is torch.float32 else 1
    check(dtype, backend, scale=0.25 / size, factor=growth, size=size)


@pytest.mark.parametrize(
    "shape",
    [
        {"batch": 2, "heads": 3, "num_queries": 20, "num_keys": 30},
        {"blocks": 1},
        {"blocks": 53, "density": 0.1},
        {"num_queries": 7, "dim": 32, "capacity": 7 * 5},
    ],
    ids=str,
)
@pytest.mark.parametrize("backend", ["triton", "cpu"])
def test_parity_at_every_shape(backend: str, shape: dict) -> None:
    if shape.get("blocks") == 1:
        parts, _, blocks = drawn(**shape)
        everyone = torch.ones(1, 2, 1, 45, dtype=torch.bool)
        out = gather_attention(*parts, everyone, blocks, lse=False, backend=backend)
        heads_first = (part.transpose(1, 2) for part in parts)
        want = torch.nn.functional.scaled_dot_product_attention(*heads_first).transpose(1, 2)
        assert torch.allclose(out, want)
        return
    check(torch.float32, backend, **shape)


@pytest.mark.parametrize("backend", ["triton", "cpu"])
def test_gradients_in_fp64(backend: str) -> None:
    parts, chosen, blocks = drawn(12, 20, heads=1, blocks=3)
    leaves = [part.to(DEVICE).requires_grad_() for part in parts]

    def function(*leaves):
        out, lse = gather_attention(*leaves, chosen.to(DEVICE), blocks.to(DEVICE), scale=0.3, backend=backend)
        return out, torch.where(lse.isfinite(), lse, 0)

    assert torch.autograd.gradcheck(function, leaves, eps=1e-5, atol=1e-6, rtol=1e-4, fast_mode=True)


def test_heads_may_wait_for_their_turn(monkeypatch) -> None:
    monkeypatch.setattr(launch, "BYTES_AT_ONCE", 1)
    check(torch.float32, "triton", num_queries=20, num_keys=30, heads=3, batch=2)


def test_lists_name_every_pair_once() -> None:
    _, chosen, _ = drawn(batch=2)
    pairs = Pairs.of(chosen, 0)
    assert pairs.queries.shape[1] == chosen.flatten(0, 1).sum((-1, -2)).max()
    for pair, mask in enumerate(chosen.flatten(0, 1)):
        for block in range(5):
            some = pairs.queries[pair, pairs.starts[pair, block] : pairs.starts[pair, block + 1]]
            assert torch.equal(some.long(), mask[block].nonzero()[:, 0])
        assert torch.equal(pairs.slots[pair] >= 0, mask)
        listed = pairs.slots[pair][mask].long()
        assert torch.equal(pairs.queries[pair, listed], mask.nonzero()[:, 1].int())
    few = Pairs.of(chosen, 10)
    assert few.starts.max() == 10 and few.slots.max() == 9, "what is too much is left out, and nothing is overrun"


def test_tiles_end_with_their_blocks() -> None:
    starts = torch.tensor([[0, 5, 5, 22, 23]], dtype=torch.int32)
    block, first = tiles_of(starts, 8, 23)
    assert block.tolist() == [[0, 2, 2, 2, 3, 4, 4]] and first[0, :5].tolist() == [0, 5, 13, 21, 22]


def test_it_compiles_without_a_break() -> None:
    parts, chosen, blocks = drawn()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def loss(q, k, v):
        out, lse = gather_attention(q * 2, k, v, chosen, blocks, scale=0.2)
        return out.sin().sum() + torch.where(lse.isfinite(), lse, 0).sum()

    compiled, eager = ([part.float().requires_grad_() for part in parts] for _ in range(2))
    loss(*compiled).backward()
    loss._torchdynamo_orig_callable(*eager).backward()
    for mine, theirs in zip(compiled, eager, strict=True):
        assert torch.allclose(mine.grad, theirs.grad, atol=1e-6)


def test_bad_input_is_named() -> None:
    (q, k, v), chosen, blocks = drawn()
    with pytest.raises(ValueError, match="'chosen' must be bool"):
        gather_attention(q, k, v, chosen[:, :, :2], blocks)
    with pytest.raises(ValueError, match="the blocks are of 53 keys, and there are 40"):
        gather_attention(q, k[:, :40], v[:, :40], chosen, blocks)
    with pytest.raises(ValueError, match="no kernel for heads of size 12"):
        gather_attention(q[..., :12], k[..., :12], v[..., :12], chosen, blocks)
    with pytest.raises(ValueError, match="one B, H, D and dtype"):
        gather_attention(q, k.float(), v, chosen, blocks)
    with pytest.raises(ValueError, match="needs a token"):
        KeyBlocks.of(torch.tensor([0, 2]))
