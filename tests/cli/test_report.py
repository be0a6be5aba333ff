"""``report``: one in words, several side by side, and what is no report."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
from sample_certificates import certified
from sample_reports import sample_report

import dit_accel.schedules
from dit_accel import AccelerationPlan
from dit_accel.evaluation.reports.report import VERSION, Report
from dit_accel.plan.certificate import sha256_of
from dit_accel.plan.fingerprint import Fingerprint


def test_one_report(run) -> None:
    sample_report().save("a.json")
    text = run("report", "a.json").stdout
    assert "tiny, PixArtAlphaPipeline, DPMSolverMultistepScheduler, 20 steps" in text
    assert "on cpu: a CPU, 1 torch threads of 2 cores; dit-accel 0.1.0" in text
    assert "command: dit-accel demo" in text
    assert "fast: speed-up 2.00x [2.00, 2.20]; PSNR 25.0 dB [20.0, 30.0], worst 5 % 20.0 dB" in text
    assert "note: made up" in text
    assert json.loads(run("report", "a.json", "--json").stdout) == json.loads(Path("a.json").read_text())


def test_nine_of_ten_is_said_of_held_out_prompts_only(run) -> None:
    plan = "balanced"
    source = Path(dit_accel.schedules.__file__).parent / "plans" / "emoji-pixart" / plan / "report.json"
    bound = Report.load(source).variant(plan).fidelity.psnr_db.bound
    words = f"9 of 10 new prompts above PSNR {math.floor(bound.value * 10) / 10:.1f} dB"
    assert words in run("report", str(source)).stdout
    data = json.loads(source.read_text())
    data["settings"]["prompt_list"] = "search"
    Path("search.json").write_text(json.dumps(data))
    assert "9 of 10" not in run("report", "search.json").stdout


def test_several_reports(run) -> None:
    report = sample_report()
    report.save("a.json")
    other = report.environment.model_copy(update={"gpu": "a GPU"})
    report.model_copy(update={"environment": other}).save("b.json")
    text = run("report", "a.json", "b.json").stdout
    assert text.index("differs in machine: gpu: A: none; B: a GPU") < text.index("verdict")
    assert "comparable" in text and "overlap" in text
    data = json.loads(run("report", "a.json", "b.json", "--json").stdout)
    assert data["names"] == ["A", "B"] and data["rows"][0]["variant"] == "fast"
    assert "made alike" in run("report", "a.json", "a.json").stdout


def test_the_certificate_beside_a_report(run) -> None:
    path = sample_report().save("folder")
    model = Fingerprint(model_class="X", sites="0", config="0")
    plan = certified(AccelerationPlan(name="fast", fingerprints=(model,)), report_sha256=sha256_of(path))
    plan.save_pretrained("folder")
    for place in ("folder", "folder/report.json"):
        text = run("report", place).stdout
        assert "certificate of plan 'fast', made from this report:\n  on 200 held-out prompts (tiny" in text
    path.write_text(path.read_text() + " ")
    assert "was made from another report than this one" in run("report", "folder").stdout
    dataclasses.replace(plan, fingerprints=()).save_pretrained("folder")
    text = run("report", "folder").stdout
    assert "the plan beside it is not certified: the plan was changed" in text and "held-out" not in text


def test_a_report_of_version_1_is_read(run) -> None:
    data = json.loads(sample_report().model_dump_json())
    data["version"] = 1
    del data["variants"][1]["speedup"]["ci95"]
    for metric in data["variants"][1]["fidelity"].values():
        if metric:
            del metric["n"], metric["higher_is_better"], metric["resamples"], metric["seed"]
    for name in ("num_timed", "prompt_list", "conditions"):
        del data["settings"][name]
    Path("old.json").write_text(json.dumps(data))
    assert "fast: speed-up 2.00x; PSNR 25.0 dB [20.0, 30.0]" in run("report", "old.json").stdout
    assert json.loads(run("report", "old.json", "--json").stdout)["version"] == VERSION


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no report at"),
        ('{"format": "dit-accel/rep', "truncated"),
        ('{"format": "dit-accel/plan"}', "not a dit-accel report"),
        ('{"format": "dit-accel/report", "version": 99}', "version 99, this dit-accel reads 4: update"),
        ('{"format": "dit-accel/report", "version": "2"}', "must be a whole number"),
        ('{"format": "dit-accel/report", "version": 2}', "not a valid report"),
    ],
)
def test_what_is_no_report(run, text: str | None, words: str) -> None:
    sample_report().save("good.json")
    if text is not None:
        Path("bad.json").write_text(text)
    for paths in (("bad.json",), ("good.json", "bad.json")):
        result = run("report", *paths)
        assert result.exit_code == 2 and result.stdout == ""
        assert result.stderr.count("\n") == 1 and words in result.stderr and "bad.json" in result.stderr
