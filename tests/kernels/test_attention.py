"""The door to attention: FlexAttention agrees, and what has no kernel is dense and says so once."""

import logging

import pytest
import torch
from sample_attention import problem, relative_error

from dit_accel.kernels import attention
from dit_accel.kernels.attention import dense, sparse_or_dense
from dit_accel.kernels.block_sparse import attend
from dit_accel.kernels.block_sparse_flex import flex_block_sparse


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


def test_a_nan_is_not_hidden() -> None:
    """Attention that is dense would give NaN where a query is NaN, and nowhere else; so does this."""
    each = problem(density=0.9)
    q, k, v = (part.float() for part in (each.q, each.k, each.v))
    q[0, 40, 1, 3] = torch.nan
    for backend in ("triton", "gather") if not torch.cuda.is_available() else ("gather",):
        out, _ = attend(q, k, v, each.table, backend=backend)
        rows = out.isnan().any(-1)
        assert rows[0, 40, 1] and int(rows.sum()) == 1
