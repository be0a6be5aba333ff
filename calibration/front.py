"""What a calibration has found: the plans that no other one beats in both speed and fidelity; and how to choose."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from dit_accel.calibration.calls import cost_of
from dit_accel.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A set of computed evaluations that was fitted and judged by real runs on search prompts.

    Attributes:
        computed: The evaluations; half calls as :mod:`.calls` has them.
        num_steps: T.
        psnr_db: Mean over prompts of the PSNR of pictures to the plain run's.
        worst_db: Mean over the worst tenth of the prompts, at least one.
        st_lpips: Mean ST-LPIPS; ``None``: not measured.
    """

    computed: tuple[int, ...]
    num_steps: int
    psnr_db: float
    worst_db: float
    st_lpips: float | None = None

    @property
    def saved(self) -> float:
        """Evaluations of a run by those that are computed, halves as such: what the wall clock can show at most."""
        return self.num_steps / cost_of(self.computed)

    @property
    def cost_frac(self) -> float:
        """The share of evaluations that are computed."""
        return cost_of(self.computed) / self.num_steps

    @property
    def score_db(self) -> float:
        """What the search maximises: the mean and the worst count alike."""
        return (self.psnr_db + self.worst_db) / 2

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Point":
        """Read what :meth:`to_dict` wrote."""
        return cls(**{**data, "computed": tuple(data["computed"])})


def front_of(points: Iterable[Point]) -> tuple[Point, ...]:
    """Those that no other one beats, fewest computed evaluations first."""
    best: dict[float, Point] = {}
    for point in points:
        cost = cost_of(point.computed)
        known = best.get(cost)
        if known is None or point.score_db > known.score_db:
            best[cost] = point
    found: list[Point] = []
    for size in sorted(best):
        if not found or best[size].score_db > found[-1].score_db:
            found.append(best[size])
    return tuple(found)


def pick(
    judged: Iterable[Point],
    *,
    max_lpips: float | None = None,
    min_psnr_db: float | None = None,
    min_speedup: float | None = None,
) -> Point:
    """The fastest point within the limits on fidelity; with ``min_speedup`` alone the most faithful one.

    Args:
        judged: All that there are: by ST-LPIPS the best need not be on the front, which is by decibel.
        max_lpips: Mean ST-LPIPS at most.
        min_psnr_db: Mean PSNR at least.
        min_speedup: Evaluations by computed evaluations at least.

    Raises:
        ConfigError: No point is within all limits; says what is reachable.
    """
    points = list(judged)
    if not points:
        raise ConfigError("the front is empty: nothing has been judged yet")
    if max_lpips is not None and any(point.st_lpips is None for point in points):
        raise ConfigError("ST-LPIPS was not measured (its package is not installed): ask for min_psnr instead")
    fine = [
        point
        for point in points
        if (max_lpips is None or (point.st_lpips is not None and point.st_lpips <= max_lpips))
        and (min_psnr_db is None or point.psnr_db >= min_psnr_db)
    ]
    fast = [point for point in fine if min_speedup is None or point.saved >= min_speedup]
    if fast and (max_lpips is not None or min_psnr_db is not None):
        return max(fast, key=lambda point: (point.saved, point.score_db))
    if fast:
        return max(fast, key=lambda point: point.score_db)
    if fine:
        best = max(fine, key=lambda point: point.saved)
        raise ConfigError(
            f"within these limits {best.saved:.2f}x is reachable at most, and {min_speedup:g}x is wanted"
        )
    best = max(points, key=lambda point: point.score_db)
    shown = "" if best.st_lpips is None else f", ST-LPIPS {best.st_lpips:.4f}"
    raise ConfigError(f"no plan that was judged is so faithful; the best has {best.psnr_db:.1f} dB{shown}")
