"""Attention over blocks of tokens in another order: the same as moving the tokens, there and back."""

import pytest
import torch
from sample_attention import problem, relative_error

from dit_accel.kernels.ordered_attention import moved, ordered_attention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LIMITS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 5e-3}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", ["triton", "gather"])
@pytest.mark.parametrize(("shared", "size"), [(False, 1.0), (True, 4.0), (False, 16.0)])
def test_nothing_is_moved_and_all_is_the_same(backend: str, dtype, shared: bool, size: float) -> None:
    each = problem(75, 75, batch=2, size=size)
    scale = 0.3 / size
    device = DEVICE if backend == "triton" else "cpu"
    draw = torch.Generator().manual_seed(0)
    order = torch.stack([torch.randperm(75, generator=draw) for _ in range(1 if shared else 2)])
    parts = [part.to(device, dtype) for part in (each.q, each.k, each.v)]
    heads_first = [part.transpose(1, 2).contiguous().transpose(1, 2) for part in parts]
    out = ordered_attention(*heads_first, each.table.to(device), order.int().to(device), scale=scale, backend=backend)
    there = order.expand(2, -1).mT
    want, _ = each.truth(*(moved(part.cpu().double(), there) for part in parts), scale)
    # As in test_block_sparse: of scores with a spread of 1,000 this is left in fp32.
    limit = LIMITS[dtype] * (20 if size == 16 and dtype is torch.float32 else 1)
    assert out.dtype == dtype and relative_error(out, moved(want, order.expand(2, -1).argsort(-1).mT)) < limit


def test_it_compiles_and_names_what_is_wrong() -> None:
    each = problem(75, 75)
    parts = [part.float() for part in (each.q, each.k, each.v)]
    order = torch.arange(75, dtype=torch.int32)[None].flip(-1)
    compiled = torch.compile(
        lambda *parts: ordered_attention(*parts, each.table, order), fullgraph=True, backend="eager"
    )
    assert torch.equal(compiled(*parts), ordered_attention(*parts, each.table, order))
    with pytest.raises(ValueError, match="must be int32"):
        ordered_attention(*parts, each.table, order.long())
    with pytest.raises(ValueError, match="has no gradient"):
        ordered_attention(parts[0].requires_grad_(), *parts[1:], each.table, order)
