"""A schedule: at which step each site is recomputed, and at which its kept output is used again."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from dit_accel.schedules.graph import SiteGraph


class ScheduleError(ValueError):
    """A schedule does not fit its own rules, or not the sites it is for."""


@dataclass(frozen=True)
class Schedule:
    """For each step and site: recompute (True) or reuse the last recomputed output (False).

    ``True`` means *recompute*, as in the code of ECAD (Aggarwal et al., 2506.15682); its prose uses the opposite
    sense. Sites that are not named are recomputed at every step. Step 0 has nothing to reuse, so its bits are set,
    and a site that is recomputed everywhere is dropped: equal behaviour means equal schedules.

    Args:
        num_steps: T, the number of denoiser evaluations of one run (a second-order scheduler makes about two a step).
        recompute: Site id to T booleans, or to a string of T characters ``0`` and ``1``.

    Raises:
        ScheduleError: A row has not T entries, or has characters other than 0 and 1.
    """

    num_steps: int
    recompute: Mapping[str, tuple[bool, ...]]

    def __init__(self, num_steps: int, recompute: Mapping[str, Sequence[bool] | str]) -> None:
        if num_steps < 1:
            raise ScheduleError(f"a schedule needs at least one step, got {num_steps}")
        rows: dict[str, tuple[bool, ...]] = {}
        for site in sorted(recompute):
            bits = _bits(site, recompute[site], num_steps)
            if not all(bits):
                rows[site] = bits
        object.__setattr__(self, "num_steps", num_steps)
        object.__setattr__(self, "recompute", MappingProxyType(rows))

    def __hash__(self) -> int:
        return hash((self.num_steps, tuple(self.recompute.items())))

    def __reduce__(self) -> tuple[Any, ...]:
        return (Schedule, (self.num_steps, dict(self.recompute)))

    @property
    def is_exact(self) -> bool:
        """True when nothing is ever reused."""
        return not self.recompute

    def recomputes(self, step: int, site: str) -> bool:
        """Whether ``site`` is recomputed at ``step``."""
        bits = self.recompute.get(site)
        return True if bits is None else bits[step]

    def reuse_fraction(self, graph: SiteGraph, *, kinds: Iterable[str] | None = None) -> float:
        """Share of (step, site) pairs that are reused, over the leaf sites of ``graph`` (or those of ``kinds``)."""
        parents = {site.parent for site in graph}
        chosen = [s for s in graph.select(kinds=kinds) if s.id not in parents or s.id in self.recompute]
        reused = sum(self.num_steps - sum(self.recompute[s.id]) for s in chosen if s.id in self.recompute)
        return reused / max(1, self.num_steps * len(chosen))

    def merged(self, other: "Schedule") -> "Schedule":
        """A schedule that reuses wherever one of the two reuses.

        Raises:
            ScheduleError: They have different step counts.
        """
        if other.num_steps != self.num_steps:
            raise ScheduleError(f"cannot merge schedules of {self.num_steps} and {other.num_steps} steps")
        rows: dict[str, Sequence[bool]] = dict(self.recompute)
        for site, bits in other.recompute.items():
            rows[site] = tuple(a and b for a, b in zip(rows[site], bits, strict=True)) if site in rows else bits
        return Schedule(self.num_steps, rows)

    def check(self, graph: SiteGraph) -> None:
        """Refuse site ids that ``graph`` does not have.

        Raises:
            ScheduleError: Names the unknown sites and a few known ones.
        """
        known = {site.id for site in graph.schedulable}
        unknown = [site for site in self.recompute if site not in known]
        if unknown:
            some = ", ".join(sorted(known)[:4])
            raise ScheduleError(
                f"the schedule names {len(unknown)} sites this model does not have, e.g. '{unknown[0]}'; "
                f"the model has {len(known)}, e.g. {some}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; the inverse of :meth:`from_dict`."""
        rows = {site: "".join("1" if bit else "0" for bit in bits) for site, bits in self.recompute.items()}
        return {"num_steps": self.num_steps, "recompute": rows}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Schedule":
        """Read what :meth:`to_dict` wrote.

        Raises:
            ScheduleError: A key is missing or unknown, or a value is of the wrong type.
        """
        if set(data) != {"num_steps", "recompute"}:
            raise ScheduleError(f"a schedule has the keys 'num_steps' and 'recompute', got {sorted(data)}")
        steps, rows = data["num_steps"], data["recompute"]
        if not isinstance(steps, int) or isinstance(steps, bool) or not isinstance(rows, Mapping):
            raise ScheduleError("'num_steps' is a whole number and 'recompute' a table of site ids to 0/1 strings")
        return cls(steps, rows)


def _bits(site: str, row: Sequence[bool] | str, num_steps: int) -> tuple[bool, ...]:
    if isinstance(row, str):
        if set(row) - {"0", "1"}:
            raise ScheduleError(f"site '{site}': a row is written in 0 and 1, got '{row}'")
        row = [char == "1" for char in row]
    if not isinstance(row, Sequence) or any(bit not in (0, 1) for bit in row):
        raise ScheduleError(f"site '{site}': a row is a text of 0 and 1 or a list of booleans, got {row!r}")
    if len(row) != num_steps:
        raise ScheduleError(f"site '{site}' has {len(row)} entries for {num_steps} steps")
    return (True, *(bool(bit) for bit in row[1:]))
