"""When a search will be done, from how long its judgements take."""

import time

from dit_accel.calibration.evolve import CHILDREN


class Pace:
    """Counts judgements and seconds.

    Args:
        budget_s: Seconds that the search may take from now on.
        generations: Ends it instead, if given.
    """

    def __init__(self, budget_s: float, generations: int | None) -> None:
        self._began = time.monotonic()
        self._budget_s, self._generations = budget_s, generations
        self._judging_s, self._judged, self._waiting = 0.0, 0, 0
        self._last = self._began

    @property
    def is_over(self) -> bool:
        """Whether the time is used up."""
        return time.monotonic() - self._began >= self._budget_s

    def expect(self, count: int) -> None:
        """So many are being judged from now on."""
        self._waiting, self._last = count, time.monotonic()

    def judged(self) -> None:
        """One of them is."""
        now = time.monotonic()
        self._judging_s += now - self._last
        self._last = now
        self._judged += 1
        self._waiting -= 1

    def left_s(self, generation: int) -> float:
        """Seconds to the end, when the search stands in this generation; infinite: nothing is known yet."""
        budget = max(0.0, self._budget_s - (time.monotonic() - self._began))
        if not self._judged:
            return budget if self._generations is None else float("inf")
        each = self._judging_s / self._judged
        if self._generations is None:
            return max(budget, each * self._waiting)  # a generation that is begun is judged whole
        more = max(0, self._generations - generation - (1 if self._waiting and generation else 0))
        return each * (self._waiting + CHILDREN * more)
