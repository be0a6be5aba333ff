"""The points of a front: what was measured of each way to run a model, and which of them nothing beats.

A point shows what a report says. The one thing that is derived here is a place on an axis: a time is the plain run's,
divided by the measured speed-up, so that points of reports from different days stand on one scale.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dit_accel.errors import ConfigError, did_you_mean
from dit_accel.plan.certificate import Measured
from dit_accel.plan.facts import metric_facts

Kind = Literal["plain", "ours", "fewer_steps", "rival"]

ERRORS = ("st_lpips", "lpips", "psnr_db", "ssim")  # in the order in which they are offered
FLOORS = {"st_lpips": 1e-5, "lpips": 1e-5}  # distances, which span decades; smaller ones nobody can see
CERTIFIED, NOT_CERTIFIED, NOT_A_PLAN = "certified", "not certified", ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A prompt of a report, and how it went.

    Attributes:
        prompt: The text.
        seed: Of its noise.
        psnr_db: Of this point's picture to the plain one; ``None``: not measured.
        place: In words, e.g. ``worst 5 %``.
    """

    prompt: str
    seed: int
    psnr_db: float | None = None
    place: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPoint:
    """One way to run a model.

    Attributes:
        key: Unique in its front, e.g. ``ours/fast``.
        label: For people.
        kind: Whose it is.
        num_steps: Scheduler steps.
        ratio: Measured speed-up of whole runs; ``None``: not measured.
        ratio_ci95: Its interval.
        errors: By the names of ``plan.facts.FIDELITY``; empty: not measured.
        n: Images or videos that the errors were measured on.
        folder: Of the plan; ``None``: not a saved plan.
        preset: Its name as a preset; ``None``: it is none.
        hub: Where it lies on the hub; empty: it does not.
        state: ``certified``, ``not certified``, or empty for what is no plan.
        words: What is said of it: the certificate, or why there is none.
        advised: Whether a rival's authors recommend this setting.
        shown: Prompts to look at, the worst first.
    """

    key: str
    label: str
    kind: Kind
    num_steps: int
    ratio: float | None = None
    ratio_ci95: tuple[float, float] | None = None
    errors: Mapping[str, Measured] = field(default_factory=dict)
    n: int = 0
    folder: Path | None = None
    preset: str | None = None
    hub: str = ""
    state: str = NOT_A_PLAN
    words: tuple[str, ...] = ()
    advised: bool = False
    shown: tuple[Shown, ...] = ()

    @property
    def can_run(self) -> bool:
        """Whether the explorer can draw with it: the plain pipeline at any number of steps, and plans."""
        return self.kind in ("plain", "fewer_steps") or self.folder is not None or self.preset is not None

    def has(self, metric: str) -> bool:
        """Whether it can stand on a plot of this metric."""
        return self.kind == "plain" or (self.ratio is not None and metric in self.errors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """Everything that is known of a model.

    Attributes:
        model: Name, folder or hub id.
        points: The plain run first.
        plain_s: Seconds an image or video of the plain run takes on the machine of the report; ``None``: not timed.
        machine: That machine, in words.
        video: Whether it makes videos.
        num_steps: Of the plain run.
        asked: What else the measured runs were asked for, by the names of ``GenerationSettings``: guidance, size.
        notes: What a reader must know.
    """

    model: str
    points: tuple[FrontPoint, ...]
    plain_s: float | None = None
    machine: str = ""
    video: bool = False
    num_steps: int = 0
    asked: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """Errors that any point has."""
        return tuple(name for name in ERRORS if any(name in point.errors for point in self.points))

    def point(self, key: str) -> FrontPoint:
        """The point of that key.

        Raises:
            ConfigError: There is none.
        """
        for point in self.points:
            if point.key == key:
                return point
        keys = [point.key for point in self.points]
        raise ConfigError(f"the front of '{self.model}' has no point '{key}'.{did_you_mean(key, keys)}")

    def visible(self, *, rivals: bool) -> tuple[FrontPoint, ...]:
        """All points, or those without the rivals."""
        return tuple(point for point in self.points if rivals or point.kind != "rival")

    def time_s(self, point: FrontPoint) -> float | None:
        """Where a point stands on the time axis, seconds an image or video; ``None``: not measured."""
        ratio = 1.0 if point.kind == "plain" else point.ratio
        return None if ratio is None or self.plain_s is None else self.plain_s / ratio

    def time_interval_s(self, point: FrontPoint) -> tuple[float, float] | None:
        """The interval of the speed-up on the time axis."""
        if point.ratio_ci95 is None or self.plain_s is None:
            return None
        low, high = point.ratio_ci95
        return self.plain_s / high, self.plain_s / low


def error_of(point: FrontPoint, metric: str) -> float:
    """How far a point is from the plain run, lower is better, whatever the metric's own direction; 0 for plain."""
    if point.kind == "plain":
        return float("-inf")
    value = point.errors[metric].mean
    return -value if metric_facts(metric).higher_is_better else value


def unbeaten(points: Iterable[FrontPoint], metric: str) -> tuple[FrontPoint, ...]:
    """Those that no other one beats in both speed and error, slowest first; points without either are left out."""
    measured = [point for point in points if point.has(metric)]
    found: list[FrontPoint] = []
    for point in sorted(measured, key=lambda p: (-_ratio(p), error_of(p, metric))):
        if not found or error_of(point, metric) < error_of(found[-1], metric):
            found.append(point)
    return tuple(reversed(found))


def _ratio(point: FrontPoint) -> float:
    return 1.0 if point.ratio is None else point.ratio
