"""The books of what ranks send each other: bytes by operation, layer, step and phase."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Phase = Literal["warmup", "steady", "output", "guidance", "control"]
"""Why something is sent: fresh values that a layer waits for, values for the next step, the denoiser's output, the
outputs of the guidance branches, and the few numbers by which ranks see that they agree."""


class Entry(NamedTuple):
    """What is counted apart."""

    op: str
    layer: str
    step: int
    phase: Phase


@dataclass(slots=True)
class Count:
    """Payload bytes and operations."""

    sent: int = 0
    received: int = 0
    times: int = 0


@dataclass(slots=True)
class Traffic:
    """What one rank has sent and received, payload only: no headers, and padding counts as what it is, bytes sent.

    Attributes:
        entries: By operation (``all_gather``, ``halo``, ``all_reduce``, ``all_to_all``), layer, step and phase.
    """

    entries: dict[Entry, Count] = field(default_factory=lambda: defaultdict(Count))

    def add(self, entry: Entry, *, sent: int, received: int) -> None:
        """Count one operation."""
        count = self.entries[entry]
        count.sent += sent
        count.received += received
        count.times += 1

    def reset(self) -> None:
        """Forget everything: a run begins."""
        self.entries.clear()

    def of(
        self,
        *,
        op: str | None = None,
        layer: str | None = None,
        step: int | None = None,
        phase: str | tuple[str, ...] | None = None,
    ) -> Count:
        """The sum of what matches; ``None`` matches everything."""
        phases = (phase,) if isinstance(phase, str) else phase
        total = Count()
        for entry, count in self:
            if op not in (None, entry.op) or layer not in (None, entry.layer) or step not in (None, entry.step):
                continue
            if phases is not None and entry.phase not in phases:
                continue
            total.sent += count.sent
            total.received += count.received
            total.times += count.times
        return total

    def by(self, field_name: str) -> dict[str | int, Count]:
        """Sums apart by one of ``op``, ``layer``, ``step`` and ``phase``."""
        sums: dict[str | int, Count] = defaultdict(Count)
        for entry, count in self:
            total = sums[getattr(entry, field_name)]
            total.sent += count.sent
            total.received += count.received
            total.times += count.times
        return dict(sums)

    def __iter__(self) -> Iterator[tuple[Entry, Count]]:
        return iter(self.entries.items())
