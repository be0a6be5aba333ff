"""What a report says of the machine, and what it must not say."""

import json
import re
import sys
from pathlib import Path

import pytest

from dit_accel.evaluation.reports.environment import command_line

ROOT = Path(__file__).resolve().parents[3]
REPORTS = [*(ROOT / "benchmarks" / "results").glob("*.json"), *(ROOT / "schedules" / "plans").rglob("report.json")]
REPORTS = [path for path in REPORTS if path.name != "breadth.json"]  # tests/benchmarks/test_breadth.py


def test_a_command_names_no_folder_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [
        "evaluate",
        "-o",
        "/home/me/out",
        "--images",
        "a=/home/me/b",
        "--prompts=/x/p.txt",
        "here/c",
        "--num",
        "3",
    ]
    monkeypatch.setattr(sys, "argv", ["/venv/dit_accel/__main__.py", *arguments])
    wanted = ("dit-accel", "evaluate", "-o", "out", "--images", "a=b", "--prompts=p.txt", "here/c", "--num", "3")
    assert command_line() == wanted


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_reports_that_ship_name_none(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    command = json.loads(text).get("command", ())
    assert not [each for each in command if Path(each.rpartition("=")[2]).is_absolute()]
    assert not re.search(r"(?<![\w.<:/])/(?:tmp|root|home|work|usr|opt|var)/", text)
