"""The page says what the report says: who is best, who did nothing, who is absent."""

from pathlib import Path

import pytest
from rivals.front import acted, closest, front
from rivals.page import write_page
from sample_reports import sample_report

from dit_accel.evaluation.reports.contest import Absent, Action, Contender
from dit_accel.evaluation.reports.records import Fidelity, Metric
from dit_accel.evaluation.reports.report import DenoiserCost, Report, Speedup, Times, Variant

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
    (row,) = (line for line in text.splitlines() if line.startswith("| tiny") and "| 2x |" in line)
    assert row.split(" | ")[2:] == ["30.5 dB", "", "", "", "28.5 dB", "Tea 1, 33.5 dB |"]
    assert "**Did nothing** (nothing was saved at these settings): Lazy 1." in text
    assert "| Far | no adapter | it needs a UNet \\| or so |" in text
    assert "| Tea | the authors of Tea | them | as they say |" in text
    assert "n = 2" in text and "a CPU, CPU" in text and "a note" in text
    rows = [line for line in text.splitlines() if line.startswith("| ") and "2.20x" in line]
    closeness = "0.0105 [0.0100, 0.0110] | 33.5 dB [33.0, 34.0] | 0.0110 | 33.0 dB"
    assert rows == [f"| **Tea 1 \\*** | 2.20x | 2.20x | 50% | {closeness} |"]
    plot = page.parent / "rivals-tiny.png"
    assert plot.read_bytes().startswith(b"\x89PNG") and "](rivals-tiny.png)" in text


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
    assert "only times on random weights" in text and "LPIPS" not in text.split("## Who is best")[1]
    assert not list(tmp_path.glob("*.png"))


def test_no_page_without_a_measurement() -> None:
    root = Path(__file__).resolve().parents[2]
    reports = list((root / "benchmarks" / "results").glob("rivals-*.json"))
    assert (root / "docs" / "rivals.md").exists() == bool(reports)
