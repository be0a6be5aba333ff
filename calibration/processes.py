"""Hands that are processes of this machine: each loads the pipeline itself and maps the recording."""

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any, Final

import torch

from dit_accel.calibration.spread import Answer, AnyErrand, HandLostError, Map, Spread, Task, crew_of

START: Final = "spawn"  # a forked process may neither use CUDA nor its parent's threads


def on_processes(load: Callable[[], Any], count: int, *, threads: int = 1) -> Spread:
    """Judge in processes of this machine.

    Args:
        load: Loads the pipeline in each; must be picklable (a function of a module, a ``functools.partial`` of one).
        count: How many.
        threads: CPU threads of torch in each: as many as without workers, for the same numbers.
    """

    @contextmanager
    def spread(errand: AnyErrand, judge: Callable[[Task], Answer]) -> Iterator[Map]:
        with crew_of(lambda: _Process(load, errand, threads), _ready, count, errand.lost) as judge_all:
            yield judge_all

    return spread


class _Process:
    def __init__(self, load: Callable[[], Any], errand: AnyErrand, threads: int) -> None:
        self.errand = errand
        context = multiprocessing.get_context(START)
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, load, errand, threads), daemon=True)
        with _deaf_to_ctrl_c():
            self.process.start()
        theirs.close()  # so that its death closes the pipe

    def give(self, task: Task) -> None:
        try:
            self.connection.send(task)
        except OSError as error:
            raise self._lost() from error

    def take(self) -> Answer:
        try:
            found = self.connection.recv()
        except (EOFError, OSError) as error:
            raise self._lost() from error
        if isinstance(found, BaseException):
            raise found
        return self.errand.read(found)

    def dismiss(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()

    def _lost(self) -> HandLostError:
        self.process.join(timeout=10)
        return HandLostError(f"a worker process ended with code {self.process.exitcode}")


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """A process that is started inside ignores Ctrl-C from its first moment: that is the leader's affair."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _ready(hands: Sequence[_Process]) -> list[_Process]:
    connections = {hand.connection: hand for hand in hands}
    return [connections[each] for each in wait(list(connections)) if isinstance(each, Connection)]


def work(connection: Any, load: Callable[[], Any], errand: AnyErrand, threads: int) -> None:
    """What the process does: judge what comes, until nobody is at the other end."""
    torch.set_num_threads(threads)
    try:
        judge = errand.judge_on(load())
        while True:
            task = connection.recv()
            connection.send(judge(task).to_plain())
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Exception as error:
        connection.send(_portable(error))


def _portable(error: Exception) -> Exception:
    """An error that can be sent: some hold what cannot."""
    import pickle

    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"a worker process failed: {type(error).__name__}: {error}")
    return error
