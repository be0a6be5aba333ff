"""A function in a thread of its own that is watched from here: how far it is, and what it raises."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

TICK_S = 0.15

Tell = Callable[[str, float], None]
"""Told how far it is: in words, and as a share."""


@dataclass(slots=True)
class Work:
    """A function that runs in a thread of its own.

    Args:
        function: Given a function to tell how far it is.
    """

    function: Callable[[Tell], Any]
    _told: "SimpleQueue[tuple[str, float]]" = field(default_factory=SimpleQueue)
    _result: list[Any] = field(default_factory=list)
    _error: list[BaseException] = field(default_factory=list)

    def watch(self) -> Iterator[tuple[str, float]]:
        """What it tells, the newest only, until it ends; raises what it raised."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        while thread.is_alive() or not self._told.empty():
            last = None
            try:
                last = self._told.get(timeout=TICK_S)
                while True:
                    last = self._told.get_nowait()
            except Empty:
                pass
            if last is not None:
                yield last
        thread.join()
        if self._error:
            raise self._error[0]

    @property
    def result(self) -> Any:
        """What it returned."""
        return self._result[0]

    def _run(self) -> None:
        try:
            self._result.append(self.function(lambda words, share: self._told.put((words, share))))
        except BaseException as error:
            self._error.append(error)
