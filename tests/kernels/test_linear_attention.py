"""SLA's linear branch: total minus critical against sums of what is left out, forward and backward, both scopes."""

import pytest
import torch
from sample_attention import problem, relative_error

from dit_accel.kernels import linear_attention as module
from dit_accel.kernels.block_sparse_truth import token_mask
from dit_accel.kernels.block_table import BlockTable
from dit_accel.kernels.linear_attention import FEATURE_MAPS, features, linear_attention, linear_attention_truth
from dit_accel.kernels.marginal_sums import marginal_sums, marginal_sums_truth

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LIMITS = {torch.float32: (1e-5, 1e-4), torch.float16: (2e-3, 1e-2), torch.bfloat16: (5e-3, 2e-2)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [{}, {"batch": 2, "heads": 3, "shared": True}, {"density": 0.95}], ids=str)
def test_total_minus_critical_is_the_sum_of_the_marginal(dtype, shape: dict) -> None:
    each = problem(**shape)
    table = each.table.to(DEVICE)
    size = (each.q.shape[0], each.q.shape[2], table.num_key_blocks, 37)
    x = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(DEVICE, dtype)
    limit = {torch.float64: 1e-12}.get(dtype, LIMITS.get(dtype, (0, 0))[0])
    want = marginal_sums_truth(x.double(), table)
    for backend in ("triton", "gather"):
        found = marginal_sums(x.to(DEVICE), table, backend=backend)
        assert found.dtype == dtype and relative_error(found, want) < limit, backend
        assert (found[:, :, 2] == 0).all(), "a row that reads everything leaves exactly nothing"


@pytest.mark.parametrize("backend", ["triton", "gather"])
def test_its_gradient_is_itself_seen_from_the_keys(backend: str) -> None:
    each = problem(30, 40, heads=1)
    for of_keys in (None, each.table.of_keys):
        given = each.table.to(DEVICE)
        table = BlockTable(
            lut=given.lut,
            counts=given.counts,
            num_key_blocks=given.num_key_blocks,
            block_q=16,
            block_k=16,
            of_keys=None if of_keys is None else given.of_keys,
        )
        x = torch.randn(1, 1, 3, 5, dtype=torch.float64, device=DEVICE).requires_grad_()
        assert torch.autograd.gradcheck(lambda x, table=table: marginal_sums(x, table, scale=0.5, backend=backend), x)
        assert torch.autograd.gradgradcheck(lambda x, table=table: marginal_sums(x, table, backend=backend), x)


@pytest.mark.parametrize("size", [1.0, 4.0, 16.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_parity_with_the_truth(dtype, size: float) -> None:
    each = problem(size=size)
    drawn = torch.randn(each.q.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    outs, grads = [], []
    for kind, function in ((dtype, linear_attention), (torch.float64, linear_attention_truth)):
        q, k, v = (part.detach().to(kind).requires_grad_() for part in each.inputs(dtype))
        out = function(features(q, "softmax"), features(k, "softmax"), v, each.table)
        (out * drawn.to(dtype).to(kind)).sum().backward()
        outs.append(out)
        grads.append([q.grad, k.grad, v.grad])
    assert relative_error(*outs) < LIMITS[dtype][0]
    for mine, true in zip(*grads, strict=True):
        assert relative_error(mine, true) < LIMITS[dtype][1]


@pytest.mark.parametrize("size", [1.0, 4.0, 16.0])
@pytest.mark.parametrize("feature_map", FEATURE_MAPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_sums_over_all_keys_fit_into_few_bits(dtype, feature_map, size: float) -> None:
    drawing = torch.Generator().manual_seed(0)
    q, k = (size * torch.randn(1, n, 1, 64, generator=drawing) for n in (40, 3000))
    v = torch.randn(1, 3000, 1, 64, generator=drawing) + 1.3
    q, k, v = (part.to(dtype) for part in (q, k, v))
    found = linear_attention(features(q, feature_map), features(k, feature_map), v, None)
    phi_q, phi_k = (features(part, feature_map).double() for part in (q, k))
    weights = torch.einsum("bqhc,bkhc->bhqk", phi_q, phi_k)
    want = torch.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdim=True), v.double())
    assert relative_error(found, want) < LIMITS[dtype][0]


@pytest.mark.parametrize("feature_map", FEATURE_MAPS)
def test_it_is_what_the_weights_of_tokens_say(feature_map) -> None:
    """Against N x N weights of single tokens, with padded keys."""
    each = problem(padded=True, batch=2)
    phi_q, phi_k = features(each.q, feature_map), features(each.k, feature_map)
    kept = token_mask(each.table.lut, each.table.counts, 75, 91, block_q=16, block_k=16)
    weights = torch.einsum("bqhc,bkhc->bhqk", phi_q, phi_k) * (~kept & each.key_mask[:, None, None])
    want = torch.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdim=True).clamp_min(1e-9), each.v)
    found = linear_attention(phi_q, phi_k, each.v, each.table, key_mask=each.key_mask)
    assert torch.allclose(found, want, atol=1e-8)
    everything = torch.einsum("bqhc,bkhc->bhqk", phi_q, phi_k) * each.key_mask[:, None, None]
    want = torch.einsum("bhqk,bkhd->bqhd", everything / everything.sum(-1, keepdim=True), each.v)
    assert torch.allclose(linear_attention(phi_q, phi_k, each.v, None, key_mask=each.key_mask), want, atol=1e-8)


def test_gradients_in_fp64_and_none_where_nothing_is_left() -> None:
    each = problem(40, 35, heads=1)  # its third row reads everything
    leaves = tuple(part[..., :4].detach().requires_grad_() for part in (each.q, each.k, each.v))

    def function(q, k, v):
        return linear_attention(features(q, "softmax"), features(k, "softmax"), v, each.table)

    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
    function(*leaves)[:, 32:].sum().backward()
    assert (function(*leaves)[:, 32:] == 0).all() and all((leaf.grad == 0).all() for leaf in leaves)


def test_heads_may_wait_for_their_turn(monkeypatch) -> None:
    each = problem(heads=3, batch=2)
    phi_q, phi_k = features(each.q, "elu"), features(each.k, "elu")
    at_once = linear_attention(phi_q, phi_k, each.v, each.table)
    monkeypatch.setattr(module, "BYTES_AT_ONCE", 1)
    assert torch.equal(linear_attention(phi_q, phi_k, each.v, each.table), at_once)


@pytest.mark.slow
def test_it_compiles_without_a_break() -> None:
    each = problem()

    @torch.compile(fullgraph=True, backend="aot_eager", dynamic=True)
    def loss(q, k, v):
        return linear_attention(features(q, "softmax"), features(k, "softmax"), v, each.table).sin().sum()

    compiled, eager = each.inputs(torch.float32), each.inputs(torch.float32)
    loss(*compiled).backward()
    loss._torchdynamo_orig_callable(*eager).backward()
    for mine, theirs in zip(compiled, eager, strict=True):
        assert torch.allclose(mine.grad, theirs.grad, atol=1e-6)
    torch.library.opcheck(
        torch.ops.dit_accel.marginal_sums.default,
        (
            torch.randn(1, 2, 6, 5, requires_grad=True),
            each.table.lut,
            each.table.counts,
            *each.table.of_keys,
            1.0,
            "auto",
        ),
    )


def test_a_table_for_other_lengths_is_named() -> None:
    each = problem()
    with pytest.raises(ValueError, match="over 6 blocks of keys, and there are 5"):
        marginal_sums(torch.zeros(1, 2, 5, 3), each.table)
    with pytest.raises(ValueError, match="build it for these lengths"):
        linear_attention(each.q[:, :40], each.k, each.v, each.table)
