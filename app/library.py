"""The fronts that the explorer knows: of the embedded pipelines, and of what its visitors have opened."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from dit_accel.app.fronts import front_of_model, models
from dit_accel.app.plans import checked
from dit_accel.app.points import CERTIFIED, NOT_CERTIFIED, Front, FrontPoint
from dit_accel.errors import ConfigError, did_you_mean

Opened = Mapping[str, Front]
"""What one visitor has opened, by name; nobody else sees it."""


@dataclass(slots=True)
class Library:
    """Reads each front once.

    Args:
        reports: Folders with reports of rivals; ``None``: those of a checkout.
    """

    reports: tuple[Path, ...] | None = None
    _fronts: dict[str, Front] = field(default_factory=dict)
    _verified: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def names(self, opened: Opened | None = None) -> list[str]:
        """What can be looked at."""
        return [*models(), *(opened or {})]

    def front(self, name: str, opened: Opened | None = None) -> Front:
        """The front of a model, or one that was opened.

        Raises:
            ConfigError: There is none of that name.
        """
        if opened and name in opened:
            return opened[name]
        names = self.names(opened)
        if name not in names:
            raise ConfigError(f"no front of '{name}'.{did_you_mean(name, names)} There are: {', '.join(names)}.")
        with self._lock:
            if name not in self._fronts:
                self._fronts[name] = front_of_model(name, self.reports)
            return self._fronts[name]

    def verify(self, name: str) -> Front:
        """The same with every certificate held against the plan that carries it; imports torch."""
        front = self.front(name)
        if name not in self._verified:
            front = verified(front)
            with self._lock:
                self._fronts[name] = front
                self._verified.add(name)
        return front


def verified(front: Front) -> Front:
    """A front whose certified points are those of whole certificates."""
    return replace(front, points=tuple(_verified(point) for point in front.points))


def _verified(point: FrontPoint) -> FrontPoint:
    if point.state != CERTIFIED or point.folder is None:
        return point
    fault = checked(point.folder)
    return point if not fault else replace(point, state=NOT_CERTIFIED, words=(f"not certified: {fault}",))
