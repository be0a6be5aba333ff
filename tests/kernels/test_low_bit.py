"""Attention in INT8 and FP8: near the truth, smoothed, with the right log-sum-exp, and no gradient."""

import pytest
import torch
from sample_attention import problem, relative_error
from torch.nn.functional import cosine_similarity

from dit_accel.kernels.low_bit import LowBits, why_no_float8, why_too_small
from dit_accel.kernels.low_bit_attention import low_bit_attention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PRECISIONS = ["int8", "int8+plain", "int8+float8"]
if why_no_float8(torch.device(DEVICE)) is not None:
    PRECISIONS.remove("int8+float8")
# e4m3 has three bits behind the point; the interpreter cuts the rest off where a GPU rounds.
LIMITS = {"int8": 2e-2, "int8+plain": 1e-2, "int8+float8": 4e-2 if DEVICE == "cuda" else 6e-2}
LEAST = {"dim": 32, "block_k": 32}  # smaller ones have no kernel, but where p v is plain blocks may be
SCALE = 32**-0.5
GROWTH = {4.0: 2, 16.0: 5}


def biased(each):
    """Keys with a strong mean in some channels, as real ones have."""
    bias = torch.zeros(each.k.shape[-1], dtype=torch.float64)
    bias[::5] = 8.0
    return each.q, each.k + bias, each.v


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", ["triton", "gather"])
def test_near_the_truth(backend: str, dtype, precision) -> None:
    each = problem(padded=True, **LEAST)
    device = DEVICE if backend == "triton" else "cpu"
    parts = [part.to(device, dtype) for part in biased(each)]
    out, lse = low_bit_attention(
        *parts, each.table.to(device), precision=precision, key_mask=each.key_mask.to(device), backend=backend
    )
    want, want_lse = each.truth(*(part.cpu().double() for part in parts), SCALE)
    assert out.dtype == dtype and relative_error(out, want) < LIMITS[precision]
    assert relative_error(lse, want_lse) < 5e-3, "that of keys which were not smoothed"
    similarity = cosine_similarity(out.cpu().double(), want, dim=-1)[want.any(-1)]
    assert similarity.mean() > 0.998  # e4m3 as the interpreter cuts it; others are above 0.9999


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("size", [4.0, 16.0])
@pytest.mark.parametrize("backend", ["triton", "gather"])
def test_near_the_truth_of_large_inputs(backend: str, size: float, precision) -> None:
    """Scores that are `size` times as far apart have rounding errors that are, and the softmax makes more of them."""
    each = problem(size=size, **LEAST)
    device = DEVICE if backend == "triton" else "cpu"
    parts = [part.to(device, torch.bfloat16) for part in (each.q, each.k, each.v)]
    out, lse = low_bit_attention(
        *parts, each.table.to(device), precision=precision, scale=SCALE / size, backend=backend
    )
    want, want_lse = each.truth(*(part.cpu().double() for part in parts), SCALE / size)
    assert relative_error(out, want) < LIMITS[precision] * GROWTH[size] and relative_error(lse, want_lse) < 5e-3


@pytest.mark.parametrize(
    "shape", [{**LEAST, "dim": 64, "heads": 1}, {**LEAST, "batch": 2, "shared": True}, {"dim": 32}], ids=str
)
def test_at_other_shapes(shape: dict) -> None:
    each = problem(**shape)
    parts = [part.to(DEVICE, torch.float32) for part in (each.q, each.k, each.v)]
    for precision in PRECISIONS:
        if why_too_small(each.q.shape[-1], each.table.block_k, precision) is not None:
            continue
        out, lse = low_bit_attention(*parts, each.table.to(DEVICE), precision=precision, backend="triton")
        want, want_lse = each.truth(each.q, each.k, each.v, each.q.shape[-1] ** -0.5)
        assert relative_error(out, want) < LIMITS[precision] and relative_error(lse, want_lse) < 1e-2
        assert (out[:, 16:32] == 0).all() and (lse[..., 16:32] == -torch.inf).all()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("backend", ["triton", "gather"])
def test_nan_reaches_those_who_read_it(backend: str, precision) -> None:
    each = problem(**LEAST)
    table = each.table.to(DEVICE if backend == "triton" else "cpu")
    readers = each.table.mask[0, 1, :, 1].repeat_interleave(16)[:75]
    assert readers.any() and not readers.all()
    for place in range(3):
        parts = [part.float() for part in (each.q, each.k, each.v)]
        parts[place][0, 40, 1, 3] = torch.nan
        parts = [part.to(table.lut.device) for part in parts]
        out = low_bit_attention(*parts, table, precision=precision, lse=False, backend=backend).cpu()
        rows = out.isnan().any(-1)
        want = readers if place else torch.arange(75) == 40
        assert torch.equal(rows[0, :, 1], want) and not rows[0, :, 0].any()


def test_smoothing_is_what_saves_it() -> None:
    each = problem()
    q, k, v = (part.float() for part in biased(each))
    bits = LowBits.of(q, k, v, block=16, precision="int8")
    _, restored, _ = bits.restored(16, torch.float32)
    smooth = k - k.mean(1, keepdim=True)
    by_itself = LowBits.of(q, torch.cat([k, -k], 1), torch.cat([v, v], 1), block=16, precision="int8")
    _, unsmoothed, _ = by_itself.restored(16, torch.float32)  # k and -k have no mean to take off
    assert relative_error(restored, smooth) < 0.5 * relative_error(unsmoothed[:, :80], k[:, :80]) * 3
    assert (restored - smooth).abs().max() < 0.5 * (unsmoothed[:, :80] - k[:, :80]).abs().max()
    assert bits.q.dtype == bits.k.dtype == bits.v.dtype == torch.int8
    assert ((bits.restored(16, torch.float32)[0] - q).abs() <= bits.q_unit.transpose(1, 2)[..., None] * 0.5001).all()


def test_it_compiles_and_has_no_gradient() -> None:
    each = problem(**LEAST)
    parts = [part.float() for part in (each.q, each.k, each.v)]
    compiled = torch.compile(
        lambda *parts: low_bit_attention(*parts, each.table, lse=False), fullgraph=True, backend="eager"
    )
    assert torch.equal(compiled(*parts), low_bit_attention(*parts, each.table, lse=False))
    with pytest.raises(ValueError, match="has no gradient"):
        low_bit_attention(parts[0].requires_grad_(), *parts[1:], each.table)
    with pytest.raises(ValueError, match="'precision' must be one of int8"):
        low_bit_attention(*parts, each.table, precision="int4")
