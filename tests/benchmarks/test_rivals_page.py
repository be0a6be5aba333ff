"""The page says what the report says: who is best, who did nothing, who is absent."""

import csv
import io
from functools import cache
from pathlib import Path

import pytest
from PIL import Image
from rivals.front import acted, closest, front, shown_rivals
from rivals.glance import glance
from rivals.page import page_text, plot_path, plotted, write_page
from rivals.plot import DIGEST, digest
from rivals.settings_csv import settings_csv
from rivals.volume import volume_lines, volume_table, volumes
from sample_reports import sample_report

from dit_accel.evaluation.reports.contest import Absent, Action, Contender
from dit_accel.evaluation.reports.records import Fidelity, Metric
from dit_accel.evaluation.reports.report import DenoiserCost, Report, Speedup, Times, Variant

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "rivals.md"
PLAIN_S = [1.0, 1.0, 1.0]


def _variant(name: str, rival: str, speedup: float, lpips: float, psnr_db: float, saved: float = 0.5) -> Variant:
    times = [1 / speedup] * 3
    kinds = {"plain, fewer steps": "fewer_steps", "dit-accel": "plan"}
    done = Action(calls=round(100 * (1 - saved)), plain_calls=100, macs=round(1000 * (1 - saved)), plain_macs=1000)
    return Variant(
        name=name,
        kind=kinds.get(rival, "rival"),  # type: ignore[arg-type]
        num_inference_steps=20,
        times=Times.of(times),
        speedup=Speedup.of(PLAIN_S, times),
        fidelity=Fidelity(
            psnr_db=Metric.of((psnr_db, psnr_db + 1)),
            ssim=Metric.of((0.9, 0.9)),
            lpips=Metric.of((lpips, lpips + 0.001), higher_is_better=False),
        ),
        denoiser=DenoiserCost(times=Times.of(times), speedup=Speedup.of(PLAIN_S, times)),
        contender=Contender(
            rival=rival,
            method=f"the authors of {rival}",
            made_by="them",
            advice="" if rival.startswith("plain") else "as they say",
            advised=name.endswith("1"),
            params={"n": 2},
            action=done,
            note="a note" if rival == "Tea" else "",
        ),
    )


def _report(*variants: Variant) -> Report:
    base = sample_report()
    absent = (Absent(name="Far", rival="Far", status="no adapter", reason="it needs a UNet | or so"),)
    return base.model_copy(update={"variants": (base.variants[0], *variants), "absent": absent})


FEW = _variant("10 steps", "plain, fewer steps", 2.0, 0.02, 30.0)
TEA = _variant("Tea 1", "Tea", 2.2, 0.01, 33.0)
OWN = _variant("dit-accel fast", "dit-accel", 2.1, 0.03, 28.0)
FAST = _variant("11 steps", "plain, fewer steps", 3.5, 0.05, 25.0)
IDLE = _variant("Lazy 1", "Lazy", 1.6, 0.0, 100.0, saved=0.0)


def test_front_and_closest() -> None:
    report = _report(FEW, TEA, OWN, FAST, IDLE)
    assert [variant.name for variant in front(report, "lpips")] == ["Tea 1", "11 steps"]
    assert not acted(IDLE)
    assert closest(report.variants[1:], 1.5, "psnr_db") is TEA
    assert closest(report.variants[1:], 3.0, "psnr_db") is FAST
    assert closest(report.variants[1:], 9.0, "psnr_db") is None
    assert closest([TEA], 2.3, "psnr_db") is TEA and closest([TEA], 2.32, "psnr_db") is None


def test_page_says_plainly_who_is_best(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = _report(FEW, TEA, OWN, FAST, IDLE)
    page = write_page([report.save(tmp_path / "rivals-tiny.json")], tmp_path / "docs" / "rivals.md")
    text = page.read_text(encoding="utf-8")
    assert "At about 2x or more, by LPIPS: **Tea 1** (0.0105, 2.20x)." in text
    assert "dit-accel at its best: dit-accel fast (0.0305)." in text
    assert (
        "At about 3x or more, by PSNR: **11 steps**" in text and "No technique beats plain fewer steps here." in text
    )
    assert "At about 4x or more: nobody." in text
    assert "Did nothing (nothing was saved at these settings): Lazy 1." in text
    assert "| Far | no adapter | it needs a UNet \\| or so |" in text
    assert "| Tea | the authors of Tea | them | as they say |" in text
    assert "n = 2" in text and "a CPU, CPU" in text and "a note" in text
    for name in ("rivals.png", "rivals-lpips.png"):
        assert (page.parent / name).read_bytes().startswith(b"\x89PNG") and f"]({name})" in text


def test_table_ends_with_fewer_steps() -> None:
    """Bold is whoever is not beaten; who acts on nothing, or is too slow, has no cell."""
    *table, _, sentence = glance(_report(FEW, TEA, OWN, FAST, IDLE))
    assert table == [
        "| PSNR, dB, at about | 1.5x | 2x | 3x | 4x |",
        "|---|---|---|---|---|",
        "| Tea | **33.5** [33.0, 34.0]<br>1, 2.20x | **33.5** [33.0, 34.0]<br>1, 2.20x | - | - |",
        "| dit-accel | 28.5 [28.0, 29.0]<br>fast, 2.10x | 28.5 [28.0, 29.0]<br>fast, 2.10x | - | - |",
        "| plain, fewer steps | 30.5 [30.0, 31.0]<br>10 steps, 2.00x | 30.5 [30.0, 31.0]<br>10 steps, 2.00x "
        "| **25.5** [25.0, 26.0]<br>11 steps, 3.50x | - |",
    ]
    assert sentence == (
        "Closer than fewer steps, and told apart from them: at 1.5x Tea; at 2x Tea; at 3x nobody; "
        "at 4x fewer steps were not measured."
    )


def test_hypervolume_is_the_area_of_each_front() -> None:
    """PSNR above 20 dB by speed-up above 1x; means are half a decibel above what is given."""
    behind = _variant("dit-accel slow", "dit-accel", 1.5, 0.05, 25.0)  # behind OWN in both: adds nothing
    far = _variant("Far 1", "Far", 3.0, 0.7, 15.0)  # below the reference
    swift = _variant("Swift 1", "Swift", 8.0, 0.4, 20.5)  # faster than counts
    report = _report(FEW, TEA, OWN, FAST, IDLE, behind, far, swift)
    found = volumes(report, "psnr_db")
    assert found["dit-accel"] == pytest.approx(1.1 * 8.5) and found["Tea"] == pytest.approx(1.2 * 13.5)
    assert found["plain, fewer steps"] == pytest.approx(1.0 * 10.5 + 1.5 * 5.5)
    assert found["Far"] == found["Lazy"] == 0 and found["Swift"] == pytest.approx(5 * 1)
    assert list(found)[:2] == ["plain, fewer steps", "Tea"]
    assert volumes(report, "lpips")["Tea"] == pytest.approx(1.2 * (0.5 - 0.0105))
    (sentence,) = volume_lines(report)
    assert sentence.startswith(f"Hypervolume: by PSNR dit-accel covers {1 - 1.1 * 8.5 / 18.75:.0%} less than plain")
    assert "| Tea | 16.2 | 0.5874 |" in volume_table(report)
    assert volume_lines(_report(TEA)) == []


def test_neighbours_are_both_bold() -> None:
    rows = glance(_report(FEW, TEA, _variant("Other 1", "Other", 2.3, 0.01, 32.9)))
    assert "| Other | **33.4** [32.9, 33.9]<br>1, 2.30x |" in "\n".join(rows)
    assert "| Tea | **33.5**" in "\n".join(rows)


def test_the_techniques_shown_are_those_that_lead_somewhere() -> None:
    slow = _variant("Slow 1", "Slow", 1.6, 0.01, 50.0)
    runner_up = _variant("Next 1", "Next", 1.6, 0.01, 40.0)
    third, fourth = (_variant(f"{name} 1", name, 1.6, 0.01, 10.0 + k) for k, name in enumerate(("Fourth", "Third")))
    assert shown_rivals(_report(slow, TEA, runner_up, third, fourth, OWN, FEW)) == ("Slow", "Tea", "Next")
    fast = _variant("Swift 1", "Swift", 4.5, 0.5, 5.0)
    quick = _variant("Quick 1", "Quick", 3.1, 0.5, 9.0)
    assert shown_rivals(_report(slow, TEA, quick, fast, OWN, FEW)) == ("Slow", "Tea", "Quick", "Swift")


def test_csv_has_every_setting_with_its_numbers() -> None:
    rows = list(csv.DictReader(io.StringIO(settings_csv([_report(FEW, TEA, OWN, FAST, IDLE)]))))
    assert [row["setting"] for row in rows] == ["Lazy 1", "10 steps", "dit-accel fast", "Tea 1", "11 steps"]
    tea = rows[3]
    assert tea["technique"] == "Tea" and tea["speedup"] == "2.200" and tea["macs_saved_frac"] == "0.5000"
    assert (tea["psnr_db"], tea["psnr_db_low95"], tea["psnr_db_high95"]) == ("33.50", "33.00", "34.00")
    assert tea["st_lpips"] == "" and tea["on_a_front"] == "yes" and rows[0]["did_something"] == "no"


def test_page_says_when_it_is_us(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = _report(FEW, _variant("dit-accel fast", "dit-accel", 2.1, 0.001, 40.0))
    text = write_page([report.save(tmp_path / "a.json")], tmp_path / "rivals.md").read_text(encoding="utf-8")
    assert "**dit-accel fast** (0.0015, 2.10x). That is us. Fewer steps at its best: 10 steps" in text


def test_neighbours_whose_intervals_overlap_are_not_told_apart(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = _report(TEA, _variant("Other 1", "Other", 2.3, 0.0105, 32.9))
    text = write_page([report.save(tmp_path / "a.json")], tmp_path / "rivals.md").read_text(encoding="utf-8")
    assert "**Tea 1** (0.0105, 2.20x). Not told apart from Other 1" in text


def test_random_weights_have_times_only(tmp_path: Path) -> None:
    bare = TEA.model_copy(update={"fidelity": None})
    text = write_page([_report(bare).save(tmp_path / "a.json")], tmp_path / "rivals.md").read_text(encoding="utf-8")
    assert "only times on random weights" in text and "## At a glance" not in text
    assert not list(tmp_path.glob("*.png"))


def test_page_and_csv_are_what_the_reports_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page_text(_shipped(), PAGE), "out of date: `make docs`"
    assert PAGE.with_suffix(".csv").read_text(encoding="utf-8") == settings_csv(_shipped()), "out of date: `make docs`"


def test_plots_show_what_the_reports_say() -> None:
    """Pixels differ between versions of matplotlib, so a plot carries the digest of what it shows."""
    for name in plotted(_shipped()):
        with Image.open(plot_path(PAGE, name)) as picture:
            assert picture.info[DIGEST] == digest(_shipped(), name), "out of date: `make docs`"


@cache
def _shipped() -> tuple[Report, ...]:
    return tuple(Report.load(path) for path in sorted((ROOT / "benchmarks" / "results").glob("rivals-*.json")))
