"""How long a run would take on ranks and links that are not here: measured work, counted bytes, a model of the link.

A run is a list of evaluations; one is the seconds that a rank computes, and the operations on the way, evenly spaced
among them. The link carries one operation after the other, each in its latency and its bytes over the bandwidth. What
is waited for at once stops the computation; what is for the next evaluation stops it only if it has not come by then.
All ranks are taken to be as slow as the slowest one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dit_accel.errors import ConfigError
from dit_accel.passes.patch_parallel.traffic import Count, Entry

# Payload that a rank can send in a second, GB/s (10^9 bytes), both ways at once: what such links are sold as, less
# what collectives are commonly seen to lose. A guess until measured: give a number where it is known.
LINKS = {"nvlink": 200.0, "pcie5": 40.0, "pcie4": 20.0, "100gbe": 10.0, "10gbe": 1.0}
LATENCY_US = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What joins the ranks.

    Args:
        gb_per_s: Payload that one rank sends in a second, 10^9 bytes.
        latency_us: Of one operation between two ranks; a collective among N takes N - 1 of them.

    Raises:
        ConfigError: A value is not positive.
    """

    gb_per_s: float
    latency_us: float = LATENCY_US

    def __post_init__(self) -> None:
        if not 0 < self.gb_per_s < float("inf") or not 0 <= self.latency_us < float("inf"):
            raise ConfigError(
                f"a link has a bandwidth above 0 and a latency from 0 on, got {self.gb_per_s:g} GB/s and "
                f"{self.latency_us:g} microseconds"
            )

    @classmethod
    def named(cls, name: str, latency_us: float = LATENCY_US) -> "Link":
        """A link by the name of its kind, or by its GB/s.

        Raises:
            ConfigError: It is neither.
        """
        if name in LINKS:
            return cls(gb_per_s=LINKS[name], latency_us=latency_us)
        try:
            return cls(gb_per_s=float(name), latency_us=latency_us)
        except ValueError as error:
            known = ", ".join(f"{kind} ({speed:g})" for kind, speed in LINKS.items())
            raise ConfigError(f"a bandwidth is a number of GB/s, or one of {known}; got '{name}'") from error

    def seconds(self, operation: "Operation") -> float:
        """What one operation takes."""
        return operation.hops * self.latency_us * 1e-6 + operation.sent / (self.gb_per_s * 1e9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """Something that a rank sends.

    Attributes:
        layer: Whom it is for.
        sent: Bytes.
        hops: How many latencies it takes.
        late: Whether it is for the next evaluation.
    """

    layer: str
    sent: int
    hops: int
    late: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One evaluation of one rank.

    Attributes:
        compute_s: Seconds that it computes.
        operations: In the order in which they are begun.
    """

    compute_s: float
    operations: tuple[Operation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """What the model says of a run.

    Attributes:
        total_s: Seconds of all evaluations.
        waited_s: Seconds of them in which a rank only waits.
        link_s: Seconds in which the link is busy.
    """

    total_s: float
    waited_s: float
    link_s: float

    @property
    def hidden_frac(self) -> float:
        """Share of the link's time that runs beside the computation; 1 where nothing is sent."""
        return max(0.0, 1 - self.waited_s / self.link_s) if self.link_s else 1.0


def simulate(run: Iterable[Evaluation], link: Link) -> Timeline:
    """Go through a run."""
    now = link_free = waited = busy = 0.0
    on_its_way: dict[str, float] = {}
    for evaluation in run:
        part = evaluation.compute_s / (len(evaluation.operations) + 1)
        for operation in evaluation.operations:
            now += part
            needed = on_its_way.pop(operation.layer, 0.0) if operation.late else 0.0
            takes = link.seconds(operation)
            if needed > now:
                waited, now = waited + needed - now, needed
            link_free = max(now, link_free) + takes
            busy += takes
            if operation.late:
                on_its_way[operation.layer] = link_free
            else:
                waited, now = waited + link_free - now, link_free
        now += part
    return Timeline(total_s=now, waited_s=waited, link_s=busy)


def operations_of(entries: Iterable[tuple[Entry, Count]], step: int, ranks: int) -> tuple[Operation, ...]:
    """What a rank's books say of one evaluation, in the order in which it was entered.

    Args:
        entries: The books.
        step: Which evaluation.
        ranks: Of the group that gathers.
    """
    found = []
    for entry, count in entries:
        if entry.step != step or entry.phase == "control":
            continue
        pairwise = entry.op == "halo" or entry.phase == "guidance"
        found.append(
            Operation(
                layer=f"{entry.phase}/{entry.layer}",
                sent=count.sent,
                hops=count.times * (1 if pairwise else ranks - 1),
                late=entry.phase == "steady",
            )
        )
    return tuple(found)


def repeated(warmup: Evaluation, steady: Evaluation | None, *, evaluations: int, warm: int) -> Sequence[Evaluation]:
    """A run of so many evaluations from a measured one of each kind."""
    if steady is None:
        return [warmup] * evaluations
    return [warmup] * min(warm, evaluations) + [steady] * max(0, evaluations - warm)
