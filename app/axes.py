"""Axes of a plot: where a value stands, linear or logarithmic, and which values get a tick."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

LOG_SPAN = 5.0  # values further apart than this are drawn on a logarithmic axis
STEPS = (1.0, 2.0, 5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """From values to pixels.

    Attributes:
        low: Value at ``start``.
        high: Value at ``end``.
        start: Pixel.
        end: Pixel; smaller than ``start`` for an axis that points up.
        log: Whether it is logarithmic.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def around(
        cls, values: Sequence[float], start: float, end: float, *, log: bool | None = None, floor: float | None = None
    ) -> "Axis":
        """An axis on which all values stand, with a little air.

        Args:
            values: To be shown; of a logarithmic axis those above 0 count.
            start: Pixel of the low end.
            end: Pixel of the high end.
            log: ``None``: where the values are far apart.
            floor: Smaller values stand at the edge.
        """
        chosen = [max(value, floor) if floor is not None else value for value in values]
        positive = [value for value in chosen if value > 0]
        if log is None:
            log = bool(positive) and len(positive) == len(chosen) and max(positive) > LOG_SPAN * min(positive)
        used = positive if log else chosen
        if not used:
            return cls(low=0.0, high=1.0, start=start, end=end)
        low, high = min(used), max(used)
        if log:
            air = max((high / low) ** 0.06, 1.05)
            return cls(low=low / air, high=high * air, start=start, end=end, log=True)
        span = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
        return cls(low=low - span, high=high + span, start=start, end=end)

    def at(self, value: float) -> float:
        """The pixel of a value; what lies beyond an end stands at it."""
        inside = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(inside / self.low) / math.log(self.high / self.low)
        else:
            share = (inside - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values inside the axis."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            found = [step * 10.0**power for power in range(first, last + 1) for step in STEPS]
            inside = [value for value in found if self.low <= value <= self.high]
            if len(inside) > count + 2:
                decades = [value for value in inside if math.isclose(math.log10(value) % 1, 0, abs_tol=1e-9)]
                inside = decades if len(decades) > 1 else inside[:: math.ceil(len(inside) / count)]
            return inside
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next((s * power for s in STEPS if s * power >= rough), 10 * power)
        first = math.ceil(self.low / step)
        return [round(place * step, 12) for place in range(first, math.floor(self.high / step) + 1)]


def short(value: float) -> str:
    """A tick's value in few letters."""
    return f"{value:.3g}" if value == 0 or abs(value) >= 1e-3 else f"{value:.0e}".replace("e-0", "e-")
