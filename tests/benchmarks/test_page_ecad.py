"""ECAD's four published figures, counted anew to all their digits, and the table that shows them."""

import pytest
from pages.ecad import PUBLISHED, Published, counted, ecad_block

NAMES = [f"{each.model_class}-{each.px}" for each in PUBLISHED]


@pytest.mark.parametrize("published", PUBLISHED, ids=NAMES)
def test_the_published_figure_is_reproduced(published: Published) -> None:
    """Linear layers alone; with attention it is what the closed form of ``tests/families/test_macs.py`` gives."""
    ours = counted(published)
    assert ours.linear == pytest.approx(published.tmacs, rel=2e-4)
    tokens = (published.px // 16) ** 2
    if published.model_class == "PixArtTransformer2DModel":
        products = 28 * 1152 * 2 * (tokens**2 + 120 * tokens)
    else:
        products = 57 * 3072 * 2 * (512 + tokens) ** 2
    assert ours.total - ours.linear == pytest.approx(20 * 2 * products / 1e12, rel=1e-6)


def test_the_table_shows_the_same_digits() -> None:
    rows = ecad_block().splitlines()[2:]
    assert len(rows) == len(PUBLISHED)
    for row, each in zip(rows, PUBLISHED, strict=True):
        _, title, theirs, ours, *_ = (cell.strip() for cell in row.split("|"))
        assert title == f"{each.title}, {each.px} px" and float(theirs) == each.tmacs
        assert abs(float(ours) - each.tmacs) <= 0.011
