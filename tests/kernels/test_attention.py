"""The door to attention: FlexAttention agrees, and what has no kernel is dense and says so once."""

import logging
import sys
from types import SimpleNamespace

import pytest
import torch
from sample_attention import problem, relative_error

from dit_accel.kernels import attention, low_bit_attention
from dit_accel.kernels.attention import dense, sparse_or_dense, why_dense
from dit_accel.kernels.block_sparse import attend
from dit_accel.kernels.block_sparse_flex import flex_block_sparse
from dit_accel.kernels.low_bit import why_no_float8


@pytest.mark.parametrize("shape", [{}, {"batch": 2, "shared": True, "num_queries": 128, "num_keys": 128}], ids=str)
def test_flex_attention_agrees(shape: dict) -> None:
    each = problem(**{"num_queries": 150, "num_keys": 200, "block_q": 64, "block_k": 64, **shape})
    q, k, v = (part.float() for part in (each.q, each.k, each.v))
    assert relative_error(flex_block_sparse(q, k, v, each.table), attend(q, k, v, each.table, lse=False)) < 1e-5


def test_a_head_without_a_kernel_is_dense_and_says_so_once(caplog, monkeypatch) -> None:
    monkeypatch.setattr(attention, "_said", set())
    each = problem(dim=24)
    q, k, v = (part.float() for part in (each.q, each.k, each.v))
    with caplog.at_level(logging.WARNING, "dit_accel.kernels"):
        out = [sparse_or_dense(q, k, v, each.table) for _ in range(2)][1]
    assert torch.equal(out, dense(q, k, v))
    assert [record.getMessage() for record in caplog.records] == [
        "attention is computed whole: there is no sparse kernel for heads of size 24, only for 16, 32, 64, 128"
    ]


def test_a_table_for_other_lengths_is_an_error_and_no_reason_for_dense() -> None:
    each = problem()
    q = torch.zeros(1, 300, 2, 16)
    with pytest.raises(ValueError, match="build it for these lengths"):
        sparse_or_dense(q, q, q, each.table)


@pytest.mark.parametrize(("capability", "has"), [((8, 0), False), ((8, 6), False), ((8, 9), True), ((9, 0), True)])
def test_fp8_is_for_gpus_that_multiply_it(monkeypatch, capability: tuple[int, int], has: bool) -> None:
    """On an older one the kernel would not even compile: 'type fp8e4nv not supported'."""
    properties = SimpleNamespace(name="a GPU", major=capability[0], minor=capability[1])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    said = why_no_float8(torch.device("cuda", 0))
    assert (said is None) is has and (has or f"a GPU has {capability[0]}.{capability[1]}" in said)
    assert why_no_float8(torch.device("cpu")) is None


def test_without_fp8_it_is_plain_or_refused(caplog, monkeypatch) -> None:
    monkeypatch.setattr(attention, "_said", set())
    for module in (attention, low_bit_attention):
        monkeypatch.setattr(module, "why_no_float8", lambda device: "this GPU has no FP8")
    each = problem(dim=32, block_k=32)
    q, k, v = (part.float() for part in (each.q, each.k, each.v))
    with caplog.at_level(logging.WARNING, "dit_accel.kernels"):
        out = sparse_or_dense(q, k, v, each.table, precision="int8+float8")
    assert torch.equal(out, attend(q, k, v, each.table, lse=False))
    assert [record.getMessage() for record in caplog.records] == [
        "attention is computed in plain precision: this GPU has no FP8"
    ]
    assert not torch.equal(sparse_or_dense(q, k, v, each.table, precision="int8"), out)
    with pytest.raises(ValueError, match="this GPU has no FP8"):
        low_bit_attention.low_bit_attention(q, k, v, each.table, precision="int8+float8")


def test_what_is_too_small_for_few_bits_is_plain(caplog, monkeypatch) -> None:
    """Tensor cores sum over 32 numbers of 8 bits at least; a kernel for fewer would not compile."""
    monkeypatch.setattr(attention, "_said", set())
    for shape, precision, reason in (
        ({"dim": 16, "block_k": 32}, "int8+plain", "need heads of at least 32, and these are of size 16"),
        ({"dim": 32, "block_k": 16}, "int8", "need blocks of at least 32 keys, and these have 16"),
        ({"dim": 32, "block_k": 16}, "int8+plain", None),
    ):
        each = problem(**shape)
        q, k, v = (part.float() for part in (each.q, each.k, each.v))
        caplog.clear()
        with caplog.at_level(logging.WARNING, "dit_accel.kernels"):
            out = sparse_or_dense(q, k, v, each.table, precision=precision)
        assert torch.equal(out, attend(q, k, v, each.table, lse=False)) == (reason is not None)
        said = [record.getMessage() for record in caplog.records]
        assert said == (
            [] if reason is None else [f"attention is computed in plain precision: products in few bits {reason}"]
        )
        if reason is not None:
            with pytest.raises(ValueError, match=reason):
                low_bit_attention.low_bit_attention(q, k, v, each.table, precision=precision)


def test_falling_back_breaks_no_graph_and_is_said_once(caplog, monkeypatch) -> None:
    monkeypatch.setattr(attention, "_said", set())
    monkeypatch.setattr(attention, "why_no_float8", lambda device: "this GPU has no FP8")
    each = problem(dim=32, block_k=32)
    q, k, v = (part.float() for part in (each.q, each.k, each.v))
    compiled = torch.compile(
        lambda *parts: sparse_or_dense(*parts, each.table, precision="int8+float8"), fullgraph=True, backend="eager"
    )
    with caplog.at_level(logging.WARNING, "dit_accel.kernels"):
        outs = [compiled(q, k, v) for _ in range(2)]
    assert all(torch.equal(out, attend(q, k, v, each.table, lse=False)) for out in outs)
    said = [record.getMessage() for record in caplog.records if record.name == "dit_accel.kernels"]
    assert said == ["attention is computed in plain precision: this GPU has no FP8"]


def test_cuda_without_triton_is_dense(monkeypatch) -> None:
    q = SimpleNamespace(shape=(1, 4, 2, 64), dtype=torch.float16, device=torch.device("cuda", 0), is_cuda=True)
    assert why_dense(q) is None
    monkeypatch.setitem(sys.modules, "triton", None)
    assert "on CUDA without Triton" in why_dense(q)
    assert why_dense(torch.zeros(1, 4, 2, 64)) is None, "a processor does without it"


def test_a_nan_is_not_hidden() -> None:
    """Attention that is dense would give NaN where a query is NaN, and nowhere else; so does this."""
    each = problem(density=0.9)
    q, k, v = (part.float() for part in (each.q, each.k, each.v))
    q[0, 40, 1, 3] = torch.nan
    for backend in ("triton", "gather") if not torch.cuda.is_available() else ("gather",):
        out, _ = attend(q, k, v, each.table, backend=backend)
        rows = out.isnan().any(-1)
        assert rows[0, 40, 1] and int(rows.sum()) == 1
