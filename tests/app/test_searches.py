"""A search in a process of its own: found again, stopped, gone on with, and its plans opened."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dit_accel.app.device import BusyError, Device
from dit_accel.app.opening import open_search
from dit_accel.app.places import Places
from dit_accel.app.searches import OVER, STATUS_FILE, Request, Search, alive, born_at, running_in, searches_in
from dit_accel.errors import ConfigError
from dit_accel.evaluation.progress_files import write_json

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 900.0  # of a machine that is busy with other things


def wait(search: Search, *, points: int = 0, over: bool = False) -> None:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        status = search.status()
        if (over and status.state in OVER) or (not over and len(search.points()) >= points):
            return
        assert over or status.state not in OVER, status
        time.sleep(0.2)
    raise AssertionError(search.status())


def request(**changes: object) -> Request:
    made = {"model": "emoji-flux", "name": "emoji-flux", "budget_s": 3600.0, "num_prompts": 2, "steps": 5}
    return Request(**{**made, **changes})  # type: ignore[arg-type]


@pytest.mark.slow
def test_found_again_stopped_gone_on_with_and_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    places = Places(root=tmp_path, output=tmp_path)
    Search(places.searches / "emoji-flux").start(request())
    again = running_in(places.searches)  # as a page that is loaded anew, or a server that is started again
    assert again is not None and again.name == "emoji-flux"
    with pytest.raises(ConfigError, match="running already"):
        again.start(request())
    device = Device(places=places, others=lambda: "a search")
    with pytest.raises(BusyError, match="a search"), device.job("drawing"):
        pass
    wait(again, points=1)
    again.stop()
    wait(again, over=True)
    assert again.status().state == "stopped" and running_in(places.searches) is None
    judged = len(again.points())
    assert judged >= 1 and again.plans()

    again.start(request(generations=0, min_speedup=1.5, certify=True, certify_prompts=2))
    wait(again, over=True)
    status = again.status()
    assert status.state == "done" and status.done_frac == 1.0
    assert len(again.points()) >= judged and len(status.volumes) >= 1
    assert (again.folder / "chosen").is_dir()
    assert len(list(again.folder.glob("certified-*/report.json"))) == 1
    front = open_search(again.folder, "emoji-flux")
    assert front.model == "emoji-flux" and all(p.state == "not certified" for p in front.points[1:])
    labels = [point.label for point in front.points]
    assert len(labels) == len(set(labels))


def test_what_cannot_be_searched_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    search = Search(tmp_path / "nobody")
    search.start(request(model=str(tmp_path / "no-model"), name="no-model"))
    wait(search, over=True)
    status = search.status()
    assert status.state == "failed" and "no-model" in status.words


def test_a_process_that_died_has_failed_and_can_be_gone_on_with(tmp_path: Path) -> None:
    search = Search(tmp_path / "dead")
    write_json(search.folder / STATUS_FILE, {"state": "searching", "words": "x", "pid": 2**22 + 1, "renewed": 1.0})
    assert search.status().state == "failed" and "what was judged is kept" in search.status().words
    assert not search.running
    write_json(search.folder / STATUS_FILE, {"state": "searching", "words": "x", "pid": os.getpid(), "renewed": 1.0})
    assert search.running


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this machine does not say when a process began")
def test_another_process_of_the_same_id_is_no_search(tmp_path: Path) -> None:
    """After a restart somebody else has its id; it does not block the device."""
    search = Search(tmp_path / "dead")
    search.write({"state": "searching", "words": "x"})
    assert search.running and running_in(tmp_path) is not None
    status = json.loads((search.folder / STATUS_FILE).read_text())
    write_json(search.folder / STATUS_FILE, {**status, "born": status["born"] - 1})
    assert search.status().state == "failed" and running_in(tmp_path) is None


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this machine does not say when a process began")
def test_a_process_that_has_ended_and_that_nobody_has_asked_for_is_not_alive() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    born = born_at(process.pid)
    assert born and alive(process.pid, born)
    assert process.stdin is not None
    process.stdin.close()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert born_at(process.pid) == 0
    assert not alive(process.pid, born)


def test_a_search_begun_on_the_command_line_is_found(tmp_path: Path) -> None:
    write_json(tmp_path / "emoji-sd" / "judged.json", {"points": [], "gains": None})
    assert [each.name for each in searches_in(tmp_path)] == ["emoji-sd"]
    assert "begun elsewhere" in searches_in(tmp_path)[0].status().words


def test_a_search_takes_time() -> None:
    with pytest.raises(ConfigError, match="needs some time"):
        request(budget_s=0)
