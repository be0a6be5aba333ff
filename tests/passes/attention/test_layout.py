"""Orders of tokens: six of them, all undone exactly, text where it was."""

import pytest
import torch

from dit_accel.families.tokens import TokenGrid
from dit_accel.passes.attention.bits import pack, unpack
from dit_accel.passes.attention.layout import ORDER_NAMES, TokenLayout


@pytest.mark.parametrize("text", [None, (0, 7), (60, 69)])
def test_six_orders_are_undone_on_an_odd_grid(text) -> None:
    layout = TokenLayout((3, 4, 5), text)
    tokens = torch.arange(layout.length)
    assert len({tuple(row.tolist()) for row in layout.permutations}) == 6
    for there, back in zip(layout.permutations, layout.inverses, strict=True):
        assert torch.equal(tokens[there][back], tokens)
        if text is not None:
            assert torch.equal(there[slice(*text)], tokens[slice(*text)]), "text keeps its place"
    assert torch.equal(layout.permutations[0], tokens), "the first one is the model's own"


def test_an_order_says_what_runs_slowest() -> None:
    layout = TokenLayout((2, 3, 4))
    by_column = layout.permutations[ORDER_NAMES.index("WHF")]
    # Tokens of column 0 first; among them row by row; frames run fastest.
    assert by_column[:6].tolist() == [0, 12, 4, 16, 8, 20]


def test_every_block_that_has_text_in_it_is_computed() -> None:
    layout = TokenLayout((1, 8, 8), (0, 20))
    mask = layout.with_text(torch.zeros(1, 6, 6, dtype=torch.bool), 16)
    assert mask[0, :2].all() and mask[0, :, :2].all() and not mask[0, 2:, 2:].any()


def test_layouts_of_live_grids() -> None:
    grid = {"frames": 2, "rows": 3, "columns": 4}
    assert TokenLayout.of(TokenGrid(**grid)) == TokenLayout((2, 3, 4))
    assert TokenLayout.of(TokenGrid(**grid, text=(0, 5))) == TokenLayout((2, 3, 4), (0, 5))
    assert TokenLayout.of(TokenGrid(**grid, text=(24, 29))).length == 29
    assert TokenLayout.of(TokenGrid(**grid, text=(3, 5))) is None, "text between the tokens"
    assert TokenLayout.of(TokenGrid(**grid, reference=4)) is None
    assert TokenLayout((2, 3, 4), (0, 5)).words == "2 x 3 x 4 tokens and 5 of text"


@pytest.mark.parametrize("length", [1, 8, 13, 144])
def test_bits_are_packed_and_unpacked(length: int) -> None:
    mask = torch.rand(2, 3, length, generator=torch.Generator().manual_seed(length)) < 0.5
    assert pack(mask).shape == (2, 3, -(-length // 8)) and torch.equal(unpack(pack(mask), length), mask)
