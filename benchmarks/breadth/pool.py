"""Each trial in a process of its own, forked from one that has everything imported: none can take the others along."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from breadth.checkout import Subject
from breadth.trial import Trial, try_pipeline

_FORK = multiprocessing.get_context("fork")


def try_all(
    subjects: Iterable[Subject], folder: Path, *, workers: int, timeout_s: float, say: Callable[[str], None]
) -> None:
    """Try every subject and write ``<folder>/<pipeline>.json`` for each.

    Args:
        subjects: Those still to be tried.
        folder: Of the results so far.
        workers: Processes at a time, one thread each.
        timeout_s: Longest time for one pipeline.
        say: Takes a line of progress.
    """
    waiting = list(subjects)[::-1]
    count, done = len(waiting), 0
    running: dict[BaseProcess, tuple[Subject, float]] = {}
    while waiting or running:
        while waiting and len(running) < workers:
            subject = waiting.pop()
            process = _FORK.Process(target=_child, args=(subject, folder))
            process.start()
            running[process] = (subject, time.monotonic())
        for process, (subject, since) in tuple(running.items()):
            late = time.monotonic() - since > timeout_s
            if process.is_alive() and not late:
                continue
            if process.is_alive():
                process.kill()
            process.join()
            del running[process]
            done += 1
            result = read(folder, subject.name) or _lost(
                subject, folder, process.exitcode, timeout_s if late else None
            )
            took = time.monotonic() - since
            say(f"{done}/{count} {subject.name}: {result['status']} ({took:.0f} s) {result['reason'][:300]}")
        time.sleep(0.05)


def read(folder: Path, name: str) -> dict[str, Any] | None:
    """The result of one pipeline, if there is one."""
    file = folder / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def _child(subject: Subject, folder: Path) -> None:
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    _write(folder, try_pipeline(subject))


def _lost(subject: Subject, folder: Path, code: int | None, late_s: float | None) -> dict[str, Any]:
    reason = f"took longer than {late_s:.0f} s" if late_s else f"the process died with {_named(code)}"
    trial = Trial(pipeline=subject.name, status="crashed", reason=reason)
    _write(folder, trial)
    return trial.to_dict()


def _named(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit status {code}"


def _write(folder: Path, trial: Trial) -> None:
    file = folder / f"{trial.pipeline}.json"
    part = file.with_suffix(".part")
    part.write_text(json.dumps(trial.to_dict(), indent=1), encoding="utf-8")
    part.replace(file)
