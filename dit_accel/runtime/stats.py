"""What a run of one denoiser did: the numbers behind ``summary``, and behind effects of passes that keep outputs."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from dit_accel.plan.conditions import Conditions
from dit_accel.runtime.call import Frame
from dit_accel.runtime.tracks import Track
from dit_accel.schedules.lowering import COMPUTE, REUSE, STORE, RowSet


@dataclass
class RunStats:
    """What happened in one run of one denoiser.

    Attributes:
        num_steps: Denoiser evaluations that the scheduler planned.
        calls: Denoiser calls that the pipeline made.
        answered: How many of them were answered without the denoiser.
        site_calls: Module calls that those denoiser calls make at the scheduled sites without a plan.
        planned_computed: Of these, how many the executed rows said to compute.
        planned_reuse: How many they said to answer from kept values (the rest is read by nobody).
        actual_computed: How many were computed; ``None`` when compiled rows ran, which do exactly what their row
            says and are not counted call by call.
        actual_reuse: How many were answered from kept values; ``None`` as above.
        peak_bytes: Most memory that kept values took at once, bytes, over all branches.
        restarts: Why kept values were dropped in mid-run, with counts.
        conditions: What could be told of the run.
        uncovered: In words, where it differs from what the plan's certificate covers.
        executed: How often each row of actions was run.
        active: Positions of the sites that the run's rows schedule.
    """

    num_steps: int = 0
    calls: int = 0
    answered: int = 0
    site_calls: int = 0
    planned_computed: int = 0
    planned_reuse: int = 0
    actual_computed: int | None = 0
    actual_reuse: int | None = 0
    peak_bytes: int = 0
    restarts: dict[str, int] = field(default_factory=dict)
    conditions: Conditions | None = None
    uncovered: tuple[str, ...] = ()
    executed: dict[tuple[str, ...], int] = field(default_factory=dict)
    active: tuple[int, ...] = ()
    _tallies: dict[tuple[int, int], "_Tally"] = field(default_factory=dict)

    @property
    def planned_saved(self) -> int:
        """Module calls that the executed rows said not to compute: answered from kept values, or read by nobody."""
        return self.site_calls - self.planned_computed

    @property
    def actual_saved(self) -> int | None:
        """The same less the planned answers that were never asked for; ``None`` as for ``actual_reuse``."""
        if self.actual_reuse is None:
            return None
        return self.planned_saved - max(0, self.planned_reuse - self.actual_reuse)

    @property
    def reasons(self) -> str:
        """Why kept values were dropped, in words; empty when they were not."""
        return "; ".join(f"{reason}, {count} times" for reason, count in self.restarts.items())

    def restarted(self, reason: str) -> None:
        """Kept values were dropped in mid-run."""
        self.restarts[reason] = self.restarts.get(reason, 0) + 1

    def book(self, rows: RowSet, actions: tuple[str, ...], tracks: Iterable[Track], frame: Frame) -> None:
        """A denoiser call has ended; what it kept is still held."""
        key = (id(rows), id(actions))
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = _Tally(rows, actions)
            self.active = tuple(sorted({*self.active, *rows.active}))
        self.calls += 1
        self.executed[actions] = self.executed.get(actions, 0) + 1
        self.site_calls += tally.sites
        self.planned_computed += tally.computed
        self.planned_reuse += tally.reused
        if frame.counting:
            self.actual_computed, self.actual_reuse = frame.computed, frame.reused
        if tally.stores:  # only then can there be more than ever before
            self.peak_bytes = max(self.peak_bytes, sum(track.kept_bytes() for track in tracks))


class _Tally:
    """How many sites a set of rows schedules, and how many of them one of its rows computes and reuses.

    Auxiliary sites, which nobody schedules, do nothing but compute and be skipped; they are left out.
    """

    def __init__(self, rows: RowSet, actions: tuple[str, ...]) -> None:
        self.rows = rows  # held, so that the key made of its id stays its own
        chosen = [actions[position] for position in rows.active if position not in rows.auxiliary]
        self.sites = len(chosen)
        self.computed = sum(action in (COMPUTE, STORE) for action in chosen)
        self.reused = chosen.count(REUSE)
        self.stores = STORE in actions
