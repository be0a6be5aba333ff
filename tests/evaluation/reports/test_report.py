"""The report: round trip, arithmetic, and that nothing unknown or broken gets in."""

import json
import sys
from pathlib import Path

import pytest
from sample_reports import sample_report

from dit_accel.errors import ConfigError
from dit_accel.evaluation.reports.environment import collect_environment
from dit_accel.evaluation.reports.report import Metric, Report


def test_round_trip(tmp_path: Path) -> None:
    report = sample_report()
    path = report.save(tmp_path / "deep" / "folder")
    assert path.name == "report.json"
    assert Report.load(path) == report
    assert Report.load(path.parent) == report


def test_numbers_follow_from_the_samples() -> None:
    fast = sample_report().variant("fast")
    assert fast.times.median_s == 0.5
    assert fast.speedup is not None and fast.speedup.ratio == pytest.approx(2.0)  # of 2.0, 2.0 and 2.2, round by round
    assert fast.fidelity is not None
    assert fast.fidelity.psnr_db.mean == 25.0
    assert fast.fidelity.psnr_db.worst5 == 20.0
    assert 20.0 <= fast.fidelity.psnr_db.ci95[0] <= 25.0 <= fast.fidelity.psnr_db.ci95[1] <= 30.0


def test_a_report_of_version_one_is_read(tmp_path: Path) -> None:
    data = json.loads(sample_report().model_dump_json())
    data["version"] = 1
    for variant in data["variants"]:
        del variant["quality"]
        for name in ("lpips", "st_lpips", "video"):
            (variant["fidelity"] or {}).pop(name, None)
        for metric in (variant["fidelity"] or {}).values():
            for name in ("n", "higher_is_better", "resamples", "seed"):
                del metric[name]
    (tmp_path / "report.json").write_text(json.dumps(data))
    report = Report.load(tmp_path)
    assert report.version == sample_report().version, "as a report of this version"
    assert report.variant("fast").fidelity == sample_report().variant("fast").fidelity


def test_distances_have_their_worst_at_the_other_end() -> None:
    metric = Metric.of([0.1, 0.2, 0.9], higher_is_better=False)
    assert (metric.worst5, metric.n, metric.mean) == (0.9, 3, pytest.approx(0.4))
    assert metric.ci95[0] <= metric.mean <= metric.ci95[1]


@pytest.mark.parametrize(
    ("place", "message"),
    [((), "surprise"), (("settings",), "settings.surprise"), (("variants", 1, "times"), "variants.1.times.surprise")],
)
def test_unknown_keys_are_refused(tmp_path: Path, place: tuple, message: str) -> None:
    data = json.loads(sample_report().model_dump_json())
    inner = data
    for key in place:
        inner = inner[key]
    inner["surprise"] = 1
    path = tmp_path / "report.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ConfigError, match=message):
        Report.load(path)


def test_nan_is_refused(tmp_path: Path) -> None:
    text = sample_report().model_dump_json().replace('"median_s":0.5', '"median_s":NaN', 1)
    assert "NaN" in text
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(ConfigError, match="finite"):
        Report.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": "dit-accel/rep', "truncated"),
        ('{"format": "something else"}', "not a dit-accel report"),
        ("[]", "not a dit-accel report"),
        ('{"format": "dit-accel/report", "version": 99}', "version 99"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        Report.load(tmp_path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no report at"):
        Report.load(tmp_path / "nowhere.json")


def test_unknown_variant_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'fast'"):
        sample_report().variant("fats")


def test_environment_describes_this_machine() -> None:
    import torch

    environment = collect_environment()
    assert environment.packages["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert environment.torch_threads == torch.get_num_threads()
    assert environment.python == ".".join(str(part) for part in sys.version_info[:3])
    assert environment.cpu
