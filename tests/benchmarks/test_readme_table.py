"""The README's results come from a report, number by number."""

import importlib.util
from pathlib import Path

import pytest
from sample_reports import sample_report

from dit_accel.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("readme_table", ROOT / "benchmarks" / "readme_table.py")
assert spec is not None and spec.loader is not None
readme_table = importlib.util.module_from_spec(spec)
spec.loader.exec_module(readme_table)


def test_numbers_are_the_report_s() -> None:
    block = readme_table.results_block(sample_report())
    rows = [line for line in block.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 3
    assert (
        '| `"fast"` | 20 | 0.50 s [0.50, 0.55] | 2.00x | 25.0 dB [20.0, 30.0] | 20.0 dB | 0.850 | 50% / 50% |' in rows
    )
    assert all(row.count("|") == readme_table.HEADER[0].count("|") for row in rows)
    assert "- made up" in block


def test_filling_replaces_the_block_only_and_again() -> None:
    readme = f"before\n{readme_table.BEGIN}\nold\n{readme_table.END}\nafter\n"
    once = readme_table.fill(readme, "new")
    assert once == f"before\n{readme_table.BEGIN}\nnew\n{readme_table.END}\nafter\n"
    assert readme_table.fill(once, "new") == once


@pytest.mark.parametrize("readme", ["", readme_table.BEGIN, readme_table.END + readme_table.BEGIN])
def test_missing_markers_are_refused(readme: str) -> None:
    with pytest.raises(ConfigError, match="once each"):
        readme_table.fill(readme, "new")


def test_our_readme_has_the_markers() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme_table.END in readme_table.fill(text, "new")
    assert readme_table.SPEED[1] in readme_table.fill(text, "new", readme_table.SPEED)
