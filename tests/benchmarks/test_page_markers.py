"""Figures and tables are found by what stands in their comments, and mistakes are named."""

import json
from pathlib import Path

import pytest
from pages.loose import loose_quantities
from pages.markers import fill
from pages.reports import HEADER, quality_block, results_block
from pages.tables import TABLES
from sample_reports import sample_report

from dit_accel.errors import ConfigError
from dit_accel.evaluation.reports.report import Report

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sample_report().save(tmp_path / "a.json")
    (tmp_path / "plan.json").write_text(json.dumps({"certificate": {"n": 200, "by.name": [1.25, 2.5]}}))
    return tmp_path


@pytest.mark.parametrize(
    ("words", "written"),
    [
        ("a.json fast.fidelity.psnr_db.mean .1f", "25.0"),
        ("a.json variants fast fidelity psnr_db ci95 .0f", "[20, 30]"),
        ("a.json num_images d", "2"),
        ('plan.json certificate "by.name" 1 .2f', "2.50"),
        ("plan.json certificate.n d", "200"),
        ("short certificate.n d", "200"),
    ],
)
def test_a_figure_is_the_value_that_its_comment_names(folder: Path, words: str, written: str) -> None:
    text = f"<!-- source short plan.json -->\n\nIt is <!-- figure {words} -->0<!-- /figure --> dB.\n"
    filled = fill(text, folder, TABLES)
    assert filled == text.replace("-->0<!--", f"-->{written}<!--")
    assert fill(filled, folder, TABLES) == filled


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x <!-- figure a.json fast.fidelity.psnr .1f -->0<!-- /figure -->", "'psnr'. Did you mean 'psnr_db'"),
        ("x <!-- figure a.json slow.times .1f -->0<!-- /figure -->", "nothing is called 'slow'"),
        ("x <!-- figure b.json n d -->0<!-- /figure -->", "no figures in"),
        ("x <!-- figure a.json d -->0<!-- /figure -->", "needs a file, a way to a value, and a format"),
        ("x <!-- figure a.json fast .1f -->0<!-- /figure -->", "not Variant"),
        ("x <!-- figure a.json num_images zz -->0<!-- /figure -->", "cannot be written"),
        ("x <!-- figure a.json num_images d -->0", "not closed"),
        (
            "x <!-- figure a.json num_images d -->0 and <!-- figure a.json num_images d -->0<!-- /figure -->",
            "not closed",
        ),
        ("x <!-- /figure -->", "not opened"),
        ("<!-- figure a.json num_images d -->0<!-- /figure -->", "first thing in a line"),
        ("<!-- table nothing a.json -->\n<!-- /table -->", "no table is called 'nothing'"),
        ("<!-- table certificates none-*.json -->\n<!-- /table -->", "no file matches"),
        ("<!-- table speed plan.json -->\n<!-- /table -->", "is not a report"),
    ],
)
def test_mistakes_are_named(folder: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fill(text, folder, TABLES)


@pytest.mark.parametrize(
    "words",
    ["38.5 dB", "2.74x faster", "95 %", "69% of", "n = 200", "2.17 s", "1.5 MB", "in two minutes", "under a minute"],
)
def test_a_quantity_by_hand_is_found(words: str) -> None:
    assert len(loose_quantities(f"It takes {words} here.")) == 1
    assert loose_quantities(f"It takes {words} here.", (words,)) == []
    assert loose_quantities(f"It takes <!-- figure a b c -->{words}<!-- /figure --> here.") == []
    assert loose_quantities(f"<!-- table a b -->\n{words}\n<!-- /table -->") == []


@pytest.mark.parametrize("words", ["64 x 64", "Python 3.11", "28 steps", "as fast", "COCO-30k", "SD 3.5", "10 steps"])
def test_other_numbers_may_stand(words: str) -> None:
    assert loose_quantities(f"This is {words} here.") == []


def test_an_exception_that_is_gone_is_refused() -> None:
    with pytest.raises(ValueError, match="does not stand in the page"):
        loose_quantities("nothing here", ("95 %",))


def test_certificates_are_the_reports() -> None:
    report = sample_report()
    block = results_block([report, report])
    rows = [line for line in block.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 4 and rows[:2] == rows[2:]
    (row,) = {row for row in rows if '`"fast"`' in row}
    fast = report.variant("fast")
    assert fast.speedup is not None and fast.fidelity is not None
    assert f"{fast.speedup.ratio:.2f}x" in row and "| 25.0 dB [20.0, 30.0] | 20.0 dB |  | 0.850 |" in row
    assert row.endswith("| 50% / 50% |")
    assert all(row.count("|") == HEADER[0].count("|") for row in rows)
    assert block.count("- made up") == 1
    other = report.model_copy(update={"samples": report.samples[:1]})
    with pytest.raises(ConfigError, match="do not fit into one table"):
        results_block([report, other])


def test_quality_is_the_evaluation_s() -> None:
    report = Report.load(ROOT / "benchmarks" / "results" / "evaluate-emoji-pixart-cpu.json")
    block = quality_block(report)
    plain = report.variant("plain").quality
    assert plain is not None and "n = 200" in block and "FID" not in block
    assert f"| plain | {plain.distances[0].value:.1f} | " in block
    assert f"| {plain.alignment[0].scores.mean:.3f} [" in block
    assert len([line for line in block.splitlines() if line.startswith("| ")]) == 1 + len(report.variants)
