"""Searches in processes of their own: a page that is reloaded, or a server that is started again, finds them.

A search has a folder, the one that ``dit-accel calibrate`` would use; the two go on with each other's work. Beside its
judgements lie what was asked for and a status that the process renews. It is told to end by a file, too.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from dit_accel.calibration.front import Point, front_of
from dit_accel.errors import ConfigError
from dit_accel.evaluation.progress_files import read_json, write_json

REQUEST_FILE, STATUS_FILE, STOP_FILE, LOG_FILE = "request.json", "status.json", "stop", "search.log"
JUDGED_FILE = "judged.json"  # calibration.calibrate.STATE_FILE, which would import torch
CHOSEN, CERTIFIED = "chosen", "certified"  # folders

State = Literal["starting", "loading", "recording", "searching", "saving", "certifying", "done", "stopped", "failed"]
OVER = ("done", "stopped", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a search was asked for.

    Attributes:
        model: Embedded name, folder or hub id, as ``load_pipeline`` takes it.
        name: What it is called.
        budget_s: Seconds.
        min_speedup: Limits on the plan that is chosen; ``None``: none.
        min_psnr: dB.
        certify: Whether the chosen plan is measured on the held-out prompts afterwards.
        num_prompts: To search with; ``None``: what calibration takes.
        certify_prompts: Of the held-out ones; ``None``: all. Fewer than a certificate takes make a report.
        steps: Scheduler steps; ``None``: the pipeline's own.
        generations: Ends the search instead of the budget.
        device: As for ``pick_device``.
        threads: Of torch.
    """

    model: str
    name: str
    budget_s: float
    min_speedup: float | None = None
    min_psnr: float | None = None
    certify: bool = False
    num_prompts: int | None = None
    certify_prompts: int | None = None
    steps: int | None = None
    generations: int | None = None
    device: str = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        if not self.budget_s > 0:
            raise ConfigError(f"a search needs some time, got {self.budget_s:g} s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How a search stands.

    Attributes:
        state: What it does.
        words: One sentence.
        done_frac: Of the budget, and of the certification after it.
        generations: Of the evolutionary search.
        pid: Of its process.
        born: When that process began, see :func:`born_at`; another one gets the same ``pid`` in time.
        started: Seconds since the epoch.
        renewed: When this was written.
        volumes: Hypervolume after each generation.
    """

    state: State
    words: str = ""
    done_frac: float = 0.0
    generations: int = 0
    pid: int = 0
    born: int = 0
    started: float = 0.0
    renewed: float = 0.0
    volumes: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Search:
    """A search on disk.

    Args:
        folder: Its folder.
    """

    folder: Path

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.folder.name

    @property
    def request(self) -> Request | None:
        """What was asked for; ``None``: it was begun elsewhere, e.g. by ``dit-accel calibrate``."""
        data = read_json(self.folder / REQUEST_FILE)
        return None if data is None else Request(**data)

    def status(self) -> Status:
        """How it stands; a process that has died in the middle has stopped, or failed if it left words."""
        data = read_json(self.folder / STATUS_FILE)
        if data is None:
            known = (self.folder / JUDGED_FILE).is_file()
            return Status(state="stopped", words="begun elsewhere; it can be gone on with" if known else "empty")
        status = Status(**{**data, "volumes": tuple(data.get("volumes", ()))})
        if status.state in OVER or alive(status.pid, status.born):
            return status
        words = self.last_words() or "its process is gone; what was judged is kept"
        return Status(**{**asdict(status), "volumes": status.volumes, "state": "failed", "words": words})

    @property
    def running(self) -> bool:
        """Whether a process works on it."""
        return self.status().state not in OVER

    def points(self) -> list[Point]:
        """Everything that was judged so far."""
        data = read_json(self.folder / JUDGED_FILE) or {}
        return [Point.from_dict(each) for each in data.get("points", ())]

    def front(self) -> tuple[Point, ...]:
        """What no other point beats."""
        return front_of(self.points())

    def plans(self) -> list[Path]:
        """Folders of plans that were saved."""
        return sorted(path.parent for path in self.folder.glob("*/dit_accel_plan.json"))

    def write(self, status: Mapping[str, Any]) -> None:
        """Renew the status."""
        own = {"pid": os.getpid(), "born": born_at(os.getpid()), "renewed": time.time()}
        write_json(self.folder / STATUS_FILE, {**status, **own})

    def start(self, request: Request) -> None:
        """Begin, or go on, in a process of its own.

        Raises:
            ConfigError: A process works on it already.
        """
        if self.running:
            raise ConfigError(f"the search '{self.name}' is running already")
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / STOP_FILE).unlink(missing_ok=True)
        write_json(self.folder / REQUEST_FILE, asdict(request))
        with open(self.folder / LOG_FILE, "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dit_accel.app.search_process", str(self.folder)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in the server's terminal is not meant for it
                env={**os.environ, "OMP_NUM_THREADS": str(request.threads)},
            )
        now, pid = time.time(), process.pid
        first = Status(
            state="starting", words="starting a process", pid=pid, born=born_at(pid), started=now, renewed=now
        )
        if read_json(self.folder / STATUS_FILE) is None or not self._is_of(process.pid):
            write_json(self.folder / STATUS_FILE, asdict(first))

    def _is_of(self, pid: int) -> bool:
        return (read_json(self.folder / STATUS_FILE) or {}).get("pid") == pid

    def stop(self) -> None:
        """Ask it to end after the plan that it is judging, and to save the front."""
        if self.running:
            (self.folder / STOP_FILE).touch()

    @property
    def asked_to_stop(self) -> bool:
        """Whether that was asked."""
        return (self.folder / STOP_FILE).exists()

    def last_words(self) -> str:
        """The last line that its process left; empty without one."""
        with contextlib.suppress(OSError):
            lines = (self.folder / LOG_FILE).read_text(encoding="utf-8", errors="replace").strip().splitlines()
            return lines[-1][:500] if lines else ""
        return ""


def searches_in(folder: Path) -> list[Search]:
    """All of them, the one renewed last first."""
    found = [Search(path.parent) for name in (STATUS_FILE, JUDGED_FILE) for path in folder.glob(f"*/{name}")]
    unique = {search.folder: search for search in found}
    return sorted(unique.values(), key=lambda search: -_renewed(search))


def running_in(folder: Path) -> Search | None:
    """The search that is running, if any."""
    return next((search for search in searches_in(folder) if search.running), None)


def alive(pid: int, born: int = 0) -> bool:
    """Whether the process of that id that began then runs; 0: whichever has that id."""
    if pid <= 0:
        return False
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # a child of ours that has ended is let go
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    return born in (0, born_at(pid))


def born_at(pid: int) -> int:
    """When a process began, in ticks of the kernel's clock; 0: it has ended, or this machine has no ``/proc``."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    state, *numbers = text.rpartition(")")[2].split()  # before it stands its name, which may be anything
    return 0 if state == "Z" else int(numbers[18])


def _renewed(search: Search) -> float:
    data = read_json(search.folder / STATUS_FILE) or {}
    return float(data.get("renewed", 0.0))
