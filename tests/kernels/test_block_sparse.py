"""The Triton kernel, through its interpreter or on a GPU, and the CPU's gather, against the fp64 truth."""

import pytest
import torch
from sample_attention import Problem, problem, relative_error

from dit_accel.kernels.block_sparse import attend, block_sparse_attention
from dit_accel.kernels.block_sparse_truth import block_sparse_truth
from dit_accel.kernels.block_table import BlockTable, blocks_of_span, with_dense_blocks
from dit_accel.kernels.marginal_sums import marginal_sums

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BACKENDS = ["triton", "gather"]
LIMITS = {torch.float32: (1e-5, 1e-4), torch.float16: (2e-3, 1e-2), torch.bfloat16: (5e-3, 2e-2)}
# Scores of inputs of size 16 have a spread of 1,000: what is left of fp32 by then.
GROWTH = {1.0: 1, 4.0: 1, 16.0: 20}


def both(each: Problem, dtype: torch.dtype, backend: str, scale: float = 0.25):
    """Outputs and gradients of the kernel and of the truth, which sees what that dtype leaves of the inputs."""
    device = DEVICE if backend == "triton" else "cpu"
    found, true = (
        each.inputs(dtype, device),
        tuple(part.detach().to("cpu", torch.float64).requires_grad_() for part in each.inputs(dtype)),
    )
    key_mask = None if each.key_mask is None else each.key_mask.to(device)
    out, lse = attend(*found, each.table.to(device), scale=scale, key_mask=key_mask, backend=backend)
    want, want_lse = each.truth(*true, scale)
    draw = torch.Generator().manual_seed(9)
    weight, weight_lse = torch.randn(want.shape, generator=draw), torch.randn(want_lse.shape, generator=draw)
    weight = weight.to(dtype)
    for result, sums, leaves in ((out, lse, found), (want, want_lse, true)):
        finite = torch.where(sums.isfinite(), sums, 0)
        ((result * weight.to(result)).sum() + (finite * weight_lse.to(finite)).sum()).backward()
        assert all(leaf.grad is not None for leaf in leaves)
    return (out, lse, *(leaf.grad for leaf in found)), (want, want_lse, *(leaf.grad for leaf in true))


def check(each: Problem, dtype: torch.dtype, backend: str, factor: float = 1, scale: float = 0.25) -> None:
    found, true = both(each, dtype, backend, scale)
    limits = (LIMITS[dtype][0], LIMITS[dtype][0], *[LIMITS[dtype][1]] * 3)
    for name, mine, theirs, limit in zip(("out", "lse", "dq", "dk", "dv"), found, true, limits, strict=True):
        assert relative_error(mine, theirs) <= limit * factor, name


@pytest.mark.parametrize("size", [1.0, 4.0, 16.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_parity_at_odd_sizes(backend: str, dtype: torch.dtype, size: float) -> None:
    # The scores are divided by `size` once: at 16 the softmax is sharp, and its gradient still has something in it.
    check(problem(size=size), dtype, backend, GROWTH[size] if dtype is torch.float32 else 1, scale=0.25 / size)


@pytest.mark.parametrize(
    "shape",
    [
        {"num_queries": 130, "num_keys": 70, "dim": 32, "block_q": 64, "block_k": 32},
        {"num_queries": 70, "num_keys": 200, "dim": 64, "block_q": 32, "block_k": 128, "heads": 1},
        {"num_queries": 200, "num_keys": 64, "dim": 128, "block_q": 128, "block_k": 64, "heads": 1},
        {"num_queries": 33, "num_keys": 17, "batch": 2, "heads": 3, "shared": True},
        {"num_queries": 50, "num_keys": 50, "batch": 2, "padded": True},
        {"num_queries": 48, "num_keys": 64},
    ],
    ids=str,
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_parity_at_every_shape(backend: str, shape: dict) -> None:
    check(problem(**shape), torch.float32, backend)


def test_a_table_may_lie_in_any_way() -> None:
    """Kernels step through a row by one; a table that was transposed or cut out of another one is copied for them."""
    each = problem(shared=True)
    table, leaves = each.table.to(DEVICE), each.inputs(torch.float32, DEVICE)
    odd = BlockTable(
        lut=spread(table.lut),
        counts=spread(table.counts),
        num_key_blocks=table.num_key_blocks,
        block_q=table.block_q,
        block_k=table.block_k,
        of_keys=(spread(table.of_keys[0]), spread(table.of_keys[1])),
    )
    assert odd.lut.stride(-1) == 2 and torch.equal(odd.lut, table.lut)
    outs, grads = [], []
    for own in (table, odd):
        out, _ = attend(*leaves, own, backend="triton")
        outs.append(out)
        grads.append(torch.autograd.grad(out.sum(), leaves))
    assert torch.equal(*outs) and all(torch.equal(*pair) for pair in zip(*grads, strict=True))
    x = torch.randn(1, 2, table.num_key_blocks, 5, device=DEVICE)
    assert torch.equal(*(marginal_sums(x, own, backend="triton") for own in (table, odd)))


def spread(table: torch.Tensor) -> torch.Tensor:
    """The same numbers with others between them."""
    return torch.stack([table, table * 0 + 1], -1)[..., 0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_in_fp64(backend: str) -> None:
    each = problem(20, 35, heads=1, padded=True)
    table = each.table.to(DEVICE if backend == "triton" else "cpu")
    key_mask = each.key_mask.to(table.lut.device)

    def function(*leaves):
        out, lse = attend(*leaves, table, scale=0.3, key_mask=key_mask, backend=backend)
        return out, torch.where(lse.isfinite(), lse, 0)

    leaves = each.inputs(torch.float64, str(table.lut.device))
    assert torch.autograd.gradcheck(function, leaves, eps=1e-5, atol=1e-6, rtol=1e-4, fast_mode=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_reads_nothing_is_zero(backend: str) -> None:
    each = problem()
    (out, lse, d_q, *_), _ = both(each, torch.float32, backend)
    assert (out[:, 16:32] == 0).all() and (lse[..., 16:32] == -torch.inf).all() and (d_q[:, 16:32] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_full_table_is_dense_attention(backend: str) -> None:
    each = problem(80, 80)
    full = BlockTable.from_mask(torch.ones(1, 1, 5, 5, dtype=torch.bool), block_q=16, block_k=16)
    q, k, v = (part.float() for part in (each.q, each.k, each.v))
    device = DEVICE if backend == "triton" else "cpu"
    out = attend(q.to(device), k.to(device), v.to(device), full.to(device), lse=False, backend=backend)
    heads_first = (part.transpose(1, 2) for part in (q, k, v))
    want = torch.nn.functional.scaled_dot_product_attention(*heads_first).transpose(1, 2)
    assert relative_error(out, want) < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
def test_text_sees_and_is_seen_by_all(backend: str) -> None:
    """Twenty tokens of text in front: their output is that of dense attention, at any sparsity of the rest."""
    each = problem(96, 96)
    text = blocks_of_span(0, 20, 16)
    mask = with_dense_blocks(torch.eye(6, dtype=torch.bool)[None, None], text, text)
    device = DEVICE if backend == "triton" else "cpu"
    q, k, v = (part.float().to(device) for part in (each.q, each.k, each.v))
    table = BlockTable.from_mask(mask, block_q=16, block_k=16).to(device)
    out = attend(q, k, v, table, lse=False, backend=backend)
    dense = torch.nn.functional.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (q, k, v))).transpose(
        1, 2
    )
    assert relative_error(out[:, :20], dense[:, :20]) < 1e-5
    assert relative_error(out[:, 32:], dense[:, 32:]) > 1e-2


@pytest.mark.parametrize("backend", BACKENDS)
def test_strides_are_taken_as_they_come(backend: str) -> None:
    each = problem(75, 75, padded=True)
    device = DEVICE if backend == "triton" else "cpu"
    plain = [part.float().to(device) for part in (each.q, each.k, each.v)]
    heads_first = [part.transpose(1, 2).contiguous().transpose(1, 2) for part in plain]
    fused = list(torch.stack(plain, 3).unbind(3))
    last_apart = [part.transpose(1, 3).contiguous().transpose(1, 3) for part in plain]
    outs = [
        attend(*parts, each.table.to(device), key_mask=each.key_mask.to(device), backend=backend)
        for parts in (plain, heads_first, fused, last_apart)
    ]
    for out, lse in outs[1:]:
        assert torch.equal(out, outs[0][0]) and torch.equal(lse, outs[0][1])


def test_the_transposed_table_is_made_when_it_is_not_given() -> None:
    each = problem()
    grads = []
    for given in (None, each.table.to(DEVICE).of_keys):
        leaves = each.inputs(torch.float32, DEVICE)
        out = block_sparse_attention(
            *leaves,
            each.table.lut.to(DEVICE),
            each.table.counts.to(DEVICE),
            block_q=16,
            block_k=16,
            transposed_table=given,
            lse=False,
            backend="triton",
        )
        out.sum().backward()
        grads.append(leaves[1].grad)
    assert torch.equal(*grads)


def test_log_sum_exps_merge_two_halves() -> None:
    """What is attended in two disjoint tables and merged by the log-sum-exp is attention over both, gradients too."""
    each = problem(density=0.5)
    both_halves = each.table.mask
    first = both_halves & (torch.rand(both_halves.shape, generator=torch.Generator().manual_seed(3)) < 0.5)
    tables = [BlockTable.from_mask(mask, block_q=16, block_k=16) for mask in (first, both_halves & ~first)]
    leaves = each.inputs(torch.float64)
    outs, sums = zip(*(attend(*leaves, table, scale=0.25) for table in tables), strict=True)
    total = torch.logaddexp(*(sum_.clamp_min(-1e4) for sum_ in sums))
    parts = [
        out * (sum_.clamp_min(-1e4) - total).exp().transpose(1, 2)[..., None]
        for out, sum_ in zip(outs, sums, strict=True)
    ]
    merged = parts[0] + parts[1]
    true = each.inputs(torch.float64)
    want, _ = block_sparse_truth(*true, each.table.lut, each.table.counts, scale=0.25, block_q=16, block_k=16)
    assert relative_error(merged, want) < 1e-9
    merged.square().sum().backward()
    want.square().sum().backward()
    for mine, theirs in zip(leaves, true, strict=True):
        assert relative_error(mine.grad, theirs.grad) < 1e-9


def test_it_compiles_without_a_break() -> None:
    each = problem(padded=True)

    @torch.compile(fullgraph=True, backend="aot_eager", dynamic=True)
    def loss(q, k, v):
        out, lse = attend(q * 2, k, v, each.table, scale=0.2, key_mask=each.key_mask)
        return (out.sin().sum() + torch.where(lse.isfinite(), lse, 0).sum()).sin()

    compiled, eager = each.inputs(torch.float32), each.inputs(torch.float32)
    loss(*compiled).backward()
    loss._torchdynamo_orig_callable(*eager).backward()
    for mine, theirs in zip(compiled, eager, strict=True):
        assert torch.allclose(mine.grad, theirs.grad, atol=1e-6)


def test_the_operator_keeps_its_promises() -> None:
    """Fake outputs, autograd and functionalisation, as torch checks them."""
    each = problem(padded=True)
    torch.library.opcheck(
        torch.ops.dit_accel.block_sparse_attention.default,
        (
            *each.inputs(torch.float32),
            each.table.lut,
            each.table.counts,
            None,
            None,
            each.key_mask,
            0.2,
            16,
            16,
            "auto",
        ),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": (1, 91, 1, 16)}, "q, k and v must be"),
        ({"dim": 24}, "no kernel for heads of size 24; there are 16, 32, 64, 128"),
        ({"block_q": 48}, "got 48 x 16"),
        ({"num_queries": 200}, "200 queries in blocks of 16 need a table of 13 rows"),
        ({"key_mask": (2, 91)}, "'key_mask' must be bool"),
        ({"lut": torch.int64}, "expected int32 tables"),
        ({"dtype": torch.float16}, "one dtype"),
    ],
)
def test_bad_input_is_named(change: dict, message: str) -> None:
    each = problem()
    dim = change.get("dim", 16)
    q = torch.zeros(1, change.get("num_queries", 75), 2, dim)
    k = torch.zeros(change.get("k", (1, 91, 2, dim)))
    key_mask = torch.ones(change["key_mask"], dtype=torch.bool) if "key_mask" in change else None
    lut = each.table.lut.to(change.get("lut", torch.int32))
    sizes = {"block_q": change.get("block_q", 16), "block_k": 16}
    with pytest.raises(ValueError, match=message):
        block_sparse_attention(
            q, k, k.to(change.get("dtype", torch.float32)), lut, each.table.counts, key_mask=key_mask, **sizes
        )


def test_a_table_for_other_keys_is_named() -> None:
    """What it says of blocks that are not there would be read as nothing, and the output would be no output of its."""
    each = problem()
    q, k = each.q.float(), each.k.float()
    with pytest.raises(ValueError, match="build it for these lengths"):
        attend(q, k[:, :60], k[:, :60], each.table)
