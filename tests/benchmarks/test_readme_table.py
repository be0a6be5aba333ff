"""The README's results come from a report, number by number."""

import importlib.util
from pathlib import Path

import pytest
from sample_reports import sample_report

from dit_accel.errors import ConfigError
from dit_accel.evaluation.reports.report import Report

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("readme_table", ROOT / "benchmarks" / "readme_table.py")
assert spec is not None and spec.loader is not None
readme_table = importlib.util.module_from_spec(spec)
spec.loader.exec_module(readme_table)


def test_numbers_are_the_report_s() -> None:
    report = sample_report()
    block = readme_table.results_block([report, report])
    rows = [line for line in block.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 4 and rows[:2] == rows[2:]
    (row,) = {row for row in rows if '`"fast"`' in row}
    fast = report.variant("fast")
    assert fast.speedup is not None and fast.fidelity is not None
    assert f"{fast.speedup.ratio:.2f}x" in row and "| 25.0 dB [20.0, 30.0] | 20.0 dB | 0.850 |" in row
    assert row.endswith("| 50% / 50% |")
    assert all(row.count("|") == readme_table.HEADER[0].count("|") for row in rows)
    assert block.count("- made up") == 1
    other = report.model_copy(update={"samples": report.samples[:1]})
    with pytest.raises(ConfigError, match="do not fit into one table"):
        readme_table.results_block([report, other])


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
    for markers in (readme_table.SPEED, readme_table.QUALITY):
        assert markers[1] in readme_table.fill(text, "new", markers)


def test_quality_is_the_evaluation_s() -> None:
    report = Report.load(ROOT / "benchmarks" / "results" / "evaluate-emoji-pixart-cpu.json")
    block = readme_table.quality_block(report)
    plain = report.variant("plain").quality
    assert plain is not None and "n = 200" in block and "FID" not in block
    assert f"| plain | {plain.distances[0].value:.1f} | " in block
    assert f"| {plain.alignment[0].scores.mean:.3f} [" in block
    assert len([line for line in block.splitlines() if line.startswith("| ")]) == 1 + len(report.variants)
