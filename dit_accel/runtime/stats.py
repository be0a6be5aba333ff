"""What a run of one denoiser did: the numbers behind ``summary`` and behind the warning that nothing was reused."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from dit_accel.plan.conditions import Conditions
from dit_accel.runtime.tracks import Track
from dit_accel.schedules.lowering import COMPUTE, REUSE, STORE, Program


@dataclass
class RunStats:
    """What happened in one run of one denoiser.

    Attributes:
        num_steps: Denoiser evaluations that the scheduler planned.
        calls: Denoiser calls made.
        site_calls: Module calls that those denoiser calls make at the scheduled sites without a plan.
        planned_computed: Of these, how many the executed rows said to compute.
        planned_reuse: How many they said to answer from kept values (the rest is read by nobody).
        actual_computed: How many were computed; ``None`` when compiled rows ran, which do exactly what their row
            says and are not counted call by call.
        actual_reuse: How many were answered from kept values; ``None`` as above.
        peak_bytes: Most memory that kept values took at once, bytes, over all branches.
        restarts: Why kept values were dropped in mid-run, with counts.
        never_called: Sites planned for reuse whose module was not called at all.
        conditions: What could be told of the run.
        uncovered: In words, where it differs from what the plan's certificate covers.
    """

    num_steps: int = 0
    calls: int = 0
    site_calls: int = 0
    planned_computed: int = 0
    planned_reuse: int = 0
    actual_computed: int | None = 0
    actual_reuse: int | None = 0
    peak_bytes: int = 0
    restarts: dict[str, int] = field(default_factory=dict)
    never_called: tuple[str, ...] = ()
    conditions: Conditions | None = None
    uncovered: tuple[str, ...] = ()

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

    def restarted(self, reason: str) -> None:
        """Kept values were dropped in mid-run."""
        self.restarts[reason] = self.restarts.get(reason, 0) + 1

    def book(self, tally: "Tally", actions: tuple[str, ...], tracks: Iterable[Track]) -> None:
        """A denoiser call has ended; what it kept is still held."""
        self.calls += 1
        self.site_calls += tally.sites
        self.planned_computed += tally.computed
        self.planned_reuse += tally.reused
        if STORE in actions:  # only then can there be more than ever before
            self.peak_bytes = max(self.peak_bytes, sum(track.kept_bytes() for track in tracks))

    def complaint(self, name: str, planned: int, silent: Sequence[str]) -> str | None:
        """What to tell the user at the end of a run that reused less than its plan says.

        Args:
            name: The denoiser's.
            planned: Outputs that the plan reuses in a whole run.
            silent: Sites of the plan that were not called.
        """
        if planned and not self.planned_reuse:
            reasons = "; ".join(f"{reason}, {count} times" for reason, count in self.restarts.items())
            return (
                f"the plan reuses outputs of '{name}', but this run of {self.num_steps} steps reused none "
                f"({reasons or 'too few steps'}); it was no faster than without the plan."
            )
        if self.actual_reuse is None or self.actual_reuse >= self.planned_reuse:
            return None
        self.never_called = tuple(silent)
        return (
            f"'{name}' reused {self.actual_reuse} of {self.planned_reuse} planned outputs; "
            f"never called: {', '.join(silent[:4]) or 'none'}{' ...' if len(silent) > 4 else ''}."
        )


@dataclass(frozen=True, slots=True)
class Tally:
    """How many sites a program schedules, and how many of them one of its rows computes and reuses."""

    sites: int
    computed: int
    reused: int

    @classmethod
    def of(cls, program: Program, actions: tuple[str, ...], auxiliary: frozenset[int]) -> "Tally":
        """Count one row, without the auxiliary sites, which nobody schedules."""
        chosen = [actions[position] for position in program.active if position not in auxiliary]
        return cls(len(chosen), sum(action in (COMPUTE, STORE) for action in chosen), chosen.count(REUSE))
