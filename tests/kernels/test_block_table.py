"""Tables and masks are two views of one thing, from the queries and from the keys."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_accel.kernels.block_table import (
    BlockTable,
    block_lengths,
    blocks_of_span,
    mask_of,
    num_blocks,
    table_of,
    transposed,
    with_dense_blocks,
)

masks = st.tuples(
    st.integers(1, 2), st.integers(1, 3), st.integers(1, 7), st.integers(1, 9), st.floats(0, 1), st.integers(0, 99)
)


def _drawn(shape_and_density) -> torch.Tensor:
    *shape, density, seed = shape_and_density
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density


@settings(max_examples=60, deadline=None)
@given(masks, st.booleans())
def test_a_table_gives_back_its_mask(drawn, narrow: bool) -> None:
    mask = _drawn(drawn)
    lut, counts = table_of(mask, narrow=narrow)
    assert lut.dtype == counts.dtype == torch.int32
    assert torch.equal(counts, mask.sum(-1, dtype=torch.int32))
    assert torch.equal(mask_of(lut, counts, mask.shape[-1]), mask)
    assert lut.shape[-1] == (max(1, int(mask.sum(-1).max())) if narrow else mask.shape[-1])
    assert int(lut.min()) >= 0 and int(lut.max()) < mask.shape[-1], "what nobody reads is a valid number too"
    for row, count in zip(lut.flatten(0, -2), counts.flatten(), strict=True):
        assert row[:count].tolist() == sorted(row[:count].tolist())


@settings(max_examples=30, deadline=None)
@given(masks)
def test_seen_from_the_keys(drawn) -> None:
    mask = _drawn(drawn)
    lut, counts = transposed(*table_of(mask), mask.shape[-1])
    assert torch.equal(mask_of(lut, counts, mask.shape[-2]), mask.mT)
    table = BlockTable.from_mask(mask)
    assert torch.equal(table.mask, mask)
    assert torch.equal(mask_of(*table.of_keys, mask.shape[-2]), mask.mT)


def test_density_counts_ragged_blocks_as_they_are() -> None:
    mask = torch.zeros(1, 2, 2, 2, dtype=torch.bool)
    mask[0, 0, 0, 1] = mask[0, 1, 1, 1] = True
    # 100 = 64 + 36: of 10,000 scores one head computes 64 * 36, the other 36 * 36.
    assert BlockTable.from_mask(mask).density(100, 100) == pytest.approx((64 * 36 + 36 * 36) / 2 / 1e4)
    assert block_lengths(100, 64).tolist() == [64, 36] and num_blocks(128, 64) == 2


def test_text_is_computed_whole() -> None:
    mask = torch.zeros(1, 1, 5, 5, dtype=torch.bool)
    text = blocks_of_span(0, 70, 64)
    assert list(text) == [0, 1] and list(blocks_of_span(5, 5, 64)) == []
    dense = with_dense_blocks(mask, text, text)
    assert not mask.any()
    assert dense[..., :2, :].all() and dense[..., :, :2].all() and not dense[..., 2:, 2:].any()


def test_what_does_not_fit_is_refused() -> None:
    good = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="bool mask"):
        BlockTable.from_mask(good.float())
    with pytest.raises(ValueError, match="bool mask"):
        BlockTable.from_mask(good[0])
    with pytest.raises(ValueError, match="'block_k' must be one of 16, 32, 64, 128, got 48"):
        BlockTable.from_mask(good, block_k=48)
    BlockTable.from_mask(good).check(100, 128)
    with pytest.raises(ValueError, match="2 x 2 blocks of 64 x 64, but 200 queries and 128 keys are 4 x 2"):
        BlockTable.from_mask(good).check(200, 128)
