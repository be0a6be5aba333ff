"""What each visitor looks at now, so that what was begun for something older neither goes on nor shows up late."""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from dit_accel.app.views import Choice

MAX_VISITS = 1000

Look = tuple[Choice, int]
"""What is chosen, and the place of the prompt."""


@dataclass(slots=True)
class Visits:
    """The newest look of every visit. Visits without a name, such as calls of the API, are never out of date."""

    _looks: "OrderedDict[str, Look]" = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self, visit: str, look: Look) -> None:
        """The visitor looks at something else."""
        if not visit:
            return
        with self._lock:
            self._looks[visit] = look
            self._looks.move_to_end(visit)
            while len(self._looks) > MAX_VISITS:
                self._looks.popitem(last=False)

    def latest(self, visit: str) -> Look | None:
        """What was looked at last; ``None``: nothing was said yet."""
        with self._lock:
            return self._looks.get(visit)

    def is_current(self, visit: str, look: Look) -> bool:
        """Whether nothing newer is looked at."""
        newest = self.latest(visit)
        return newest is None or newest == look
