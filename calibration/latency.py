"""What a plan will cost, without running it: seconds from a table of measured site times, multiply-accumulates beside.

The table (:mod:`.site_times` measures it) says how long a whole denoiser call takes, how much of that each site's
reuse saves, how long an answered call takes, and what a run takes outside of the denoiser. A plan is priced by the
rows that it would execute: every call costs the whole less what its row leaves out, sites inside others once.

Multiply-accumulates tell neither: norms, modulation and launches are no part of them, and a second of a small layer
holds fewer than one of a large layer.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from dit_accel.errors import ConfigError
from dit_accel.families.macs import MacsReport
from dit_accel.passes.static_cache import StaticCacheConfig
from dit_accel.passes.trajectory.config import TrajectoryConfig
from dit_accel.plan.config import PassConfig
from dit_accel.schedules.graph import SiteGraph
from dit_accel.schedules.lowering import REUSE, SKIP, lower
from dit_accel.schedules.schedule import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class DenoiserTimes:
    """Of one denoiser.

    Attributes:
        call_s: Seconds of a call in which everything is computed.
        answered_s: Seconds of a call that a trajectory answers.
        first_s: Seconds that the first call of a run takes longer than others: caches are cold, conditions are read.
        sites_s: By site the seconds that its reuse saves, with what then need not run either.
        entries: By leaf a number, the same for sites that were measured together.
        overlap: How much less leaves of different entries save together than each by itself: of the product of two
            savings, in whole calls. Whole blocks are not known to overlap.
    """

    call_s: float
    answered_s: float
    first_s: float = 0.0
    sites_s: Mapping[str, float]
    entries: Mapping[str, int] = field(default_factory=dict)
    overlap: float = 0.0

    def without(self, graph: SiteGraph, idle: Collection[str]) -> float:
        """Seconds of a call in which these sites are not computed; what lies inside of one is taken off with it."""
        gone: set[str] = set()
        saved: dict[int, float] = {}
        for site in graph:
            if site.parent in gone:
                gone.add(site.id)
            elif site.id in idle:
                gone.add(site.id)
                entry = self.entries.get(site.id, -1)
                saved[entry] = saved.get(entry, 0.0) + self.sites_s.get(site.id, 0.0)
        others = saved.pop(-1, 0.0)
        together = self.overlap * products_of(saved.values()) / max(self.call_s, 1e-30)
        return max(self.call_s - others - sum(saved.values()) + together, self.answered_s)


def products_of(values: Iterable[float]) -> float:
    """The sum of the products of every two of some numbers."""
    listed = list(values)
    return (sum(listed) ** 2 - sum(value**2 for value in listed)) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteTimes:
    """What was measured on one device for one shape of run.

    Attributes:
        device: On which.
        evaluations: Name of the denoiser of each of T evaluations.
        calls: Denoiser calls an evaluation: guidance in two calls makes two.
        outside_s: Seconds of a run outside of the denoisers.
        denoisers: Their times, by name.
    """

    device: str
    evaluations: tuple[str, ...]
    calls: float
    outside_s: float
    denoisers: Mapping[str, DenoiserTimes]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "SiteTimes":
        """Read what :meth:`to_dict` wrote."""
        times = {name: DenoiserTimes(**each) for name, each in data["denoisers"].items()}
        return cls(**{**data, "evaluations": tuple(data["evaluations"]), "denoisers": times})


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one run.

    Attributes:
        seconds: Of the whole pipeline, predicted.
        macs: Multiply-accumulates of the denoisers, attention included; ``None``: not counted.
        linear_macs: Those of linear layers and convolutions: what ECAD counts.
    """

    seconds: float
    macs: int | None = None
    linear_macs: int | None = None


@dataclass(slots=True, kw_only=True)
class Pricing:
    """Prices plans for one pipeline and one shape of run.

    Attributes:
        times: What was measured.
        graphs: The sites of each denoiser.
        macs: Of one plain call of each denoiser; empty: not counted.
    """

    times: SiteTimes
    graphs: Mapping[str, SiteGraph]
    macs: Mapping[str, MacsReport] = field(default_factory=dict)

    def of(self, passes: Iterable[PassConfig] = ()) -> Cost:
        """The cost of a plan; of none, that of the plain run.

        Raises:
            ConfigError: A pass other than a trajectory and a static cache, or one for another number of steps.
        """
        trajectory: TrajectoryConfig | None = None
        cache: StaticCacheConfig | None = None
        for config in passes:
            if isinstance(config, TrajectoryConfig):
                trajectory = config
            elif isinstance(config, StaticCacheConfig):
                cache = config
            else:
                raise ConfigError(f"'{config.type_name}' cannot be priced: only trajectories and static caches can")
        steps = len(self.times.evaluations)
        computed = range(steps) if trajectory is None else trajectory.steps_of(steps)
        absent = frozenset(range(steps)) - frozenset(computed)
        if cache is None:
            return self.of_schedules({}, absent)
        depth = {
            name.rpartition(".")[0]: table.shape[1]
            for name, table in cache.corrections.items()
            if name.endswith(".nodes")
        }
        schedules = {name: cache.schedule_for(graph, steps) for name, graph in self.graphs.items()}
        return self.of_schedules(schedules, absent, depth=depth)

    def of_schedules(
        self,
        schedules: Mapping[str, Schedule],
        absent: Collection[int] = (),
        *,
        depth: Mapping[str, int] | None = None,
    ) -> Cost:
        """The cost of a run by what each denoiser's sites do.

        Args:
            schedules: By denoiser; one that is not named computes everything.
            absent: Evaluations that a trajectory answers.
            depth: How many kept values a site reads.
        """
        evaluations, steps = self.times.evaluations, len(self.times.evaluations)
        seconds, macs, linear = self.times.outside_s, 0.0, 0.0
        for name, times in self.times.denoisers.items():
            graph, report = self.graphs[name], self.macs.get(name)
            schedule = schedules.get(name, Schedule(steps, {}))
            seconds += self.times.calls * times.first_s
            program = lower(schedule, graph, evaluations.index(name), depth=depth, absent=absent)
            for step in (step for step, owner in enumerate(evaluations) if owner == name):
                # The first call of a denoiser has nothing to be answered from.
                if step in absent and step != program.start:
                    seconds += self.times.calls * times.answered_s
                    continue
                actions = program.row(step).actions
                idle = {site.id for site, action in zip(graph, actions, strict=True) if action in (REUSE, SKIP)}
                seconds += self.times.calls * times.without(graph, idle)
                if report is not None:
                    macs += self.times.calls * report.without(graph, idle)
                    linear += self.times.calls * report.without(graph, idle, linear=True)
        if not self.macs:
            return Cost(seconds=seconds)
        return Cost(seconds=seconds, macs=round(macs), linear_macs=round(linear))


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """A prediction beside the clock.

    Attributes:
        name: Of the plan.
        predicted_s: Seconds of a run.
        measured_s: Median of several runs.
    """

    name: str
    predicted_s: float
    measured_s: float

    @property
    def frac(self) -> float:
        """How much longer the prediction is than what was measured, of the latter."""
        return self.predicted_s / self.measured_s - 1


def largest(deviations: Sequence[Deviation]) -> float:
    """The largest deviation, as a fraction without sign."""
    return max((abs(each.frac) for each in deviations), default=0.0)
