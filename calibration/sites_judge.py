"""Judges candidates of calls and sites by real runs: a few prompts first, all of them for those that do well."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from dit_accel.calibration.calm import MOST_GAIN
from dit_accel.calibration.corrections import Moments
from dit_accel.calibration.fit_runs import Runner
from dit_accel.calibration.judging import in_a_line
from dit_accel.calibration.latency import Cost, Pricing
from dit_accel.calibration.recording import Draw, Recording
from dit_accel.calibration.regression import RIDGES
from dit_accel.calibration.sites_genome import Genome, Groups
from dit_accel.errors import ConfigError, MissingDependencyError
from dit_accel.evaluation.metrics.fidelity import fidelity
from dit_accel.evaluation.metrics.perceptual import available_perceptual
from dit_accel.passes.quantize.config import QuantizeConfig
from dit_accel.passes.static_cache import StaticCacheConfig
from dit_accel.passes.trajectory.config import TrajectoryConfig
from dit_accel.plan.config import PassConfig

WORST_FRAC = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteVerdict:
    """What runs on search prompts show of a candidate.

    Attributes:
        genome: What it computes.
        num_prompts: How many prompts it was fitted to and judged by.
        psnr_db: Mean over prompts of the PSNR of pictures to the plain run's.
        worst_db: Mean over the worst tenth of the prompts, at least one.
        st_lpips: Mean ST-LPIPS; ``None``: not measured.
        error: Mean square of the distance of the last latents from the plain run's, relative to these.
        fault: Why it could not be judged, its scores then being nought; ``None``: it was.
    """

    genome: Genome
    num_prompts: int
    psnr_db: float = 0.0
    worst_db: float = 0.0
    st_lpips: float | None = None
    error: float = 0.0
    fault: str | None = None

    @property
    def score_db(self) -> float:
        """What the search maximises: the mean and the worst count alike."""
        return (self.psnr_db + self.worst_db) / 2

    def to_plain(self) -> dict[str, Any]:
        """JSON data."""
        return {**asdict(self), "genome": self.genome.to_dict()}

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> "SiteVerdict":
        """Read what :meth:`to_plain` wrote."""
        return cls(**{**data, "genome": Genome.from_dict(data["genome"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePoint(SiteVerdict):
    """A judged candidate with what it costs.

    Attributes:
        seconds: Of a run, by the table of site times.
        speedup: Seconds of the plain run by the same table, divided by these.
        macs_frac: Multiply-accumulates of the denoisers by those of the plain run.
    """

    seconds: float
    speedup: float
    macs_frac: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return self.to_plain()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "SitePoint":
        """Read what :meth:`to_dict` wrote."""
        return cls(**{**data, "genome": Genome.from_dict(data["genome"])})


@dataclass(slots=True, kw_only=True)
class Prices:
    """What candidates cost, by the table of site times.

    Attributes:
        pricing: Of the pipeline.
        groups: Of sites.
        quantised_frac: Of a quantised model: time of a call by that of one with the weights as they were.
    """

    pricing: Pricing
    groups: Groups
    quantised_frac: float = 1.0

    def of(self, genome: Genome) -> Cost:
        """Of one run; corrections and weights cost next to nothing, one of two guidance branches half of a call.

        Calls in few bits and exact ones are taken to be alike but for :attr:`quantised_frac`.
        """
        cost = self._in_full(genome)
        busy = cost.seconds - self.pricing.times.outside_s
        share = len(quantised_at(genome)) / len(computed_at_all(genome))
        return replace(cost, seconds=cost.seconds - busy * share * (1 - self.quantised_frac))

    def _in_full(self, genome: Genome) -> Cost:
        cost = self.pricing.of(without_corrections(genome, self.groups))
        if not genome.conditional:
            return cost
        whole = self.pricing.of(without_corrections(genome.having(computed=computed_at_all(genome)), self.groups))
        macs = None if cost.macs is None or whole.macs is None else (cost.macs + whole.macs) // 2
        return Cost(seconds=(cost.seconds + whole.seconds) / 2, macs=macs)

    def point(self, verdict: SiteVerdict) -> SitePoint:
        """A verdict with its cost."""
        cost, plain = self.of(verdict.genome), self.pricing.of(())
        shown = {name: getattr(verdict, name) for name in SiteVerdict.__dataclass_fields__}
        return SitePoint(
            seconds=cost.seconds,
            speedup=round(plain.seconds / cost.seconds, 4),
            macs_frac=round((cost.macs or 0) / (plain.macs or 1), 4),
            **shown,
        )


def without_corrections(genome: Genome, groups: Groups) -> tuple[TrajectoryConfig, StaticCacheConfig]:
    """Which evaluations and sites it computes whole."""
    trajectory = TrajectoryConfig(computed=tuple(step in genome.computed for step in range(genome.num_steps)))
    return trajectory, StaticCacheConfig(schedule=genome.schedule(groups))


def computed_at_all(genome: Genome) -> tuple[int, ...]:
    """The evaluations of which one guidance branch or both are computed."""
    return tuple(sorted({*genome.computed, *genome.conditional}))


def quantised_at(genome: Genome) -> tuple[int, ...]:
    """The evaluations that a quantised model computes in few bits."""
    first, last = genome.exact
    return tuple(step for step in computed_at_all(genome) if first <= step < genome.num_steps - last)


@dataclass(slots=True, kw_only=True)
class SiteJudge:
    """Fits a candidate's weights on its own run and compares its pictures with the plain ones.

    Attributes:
        pipe: The pipeline.
        draw: Draws prompts.
        reference: Recorded over all prompts.
        groups: Of sites.
        moments: Of their outputs in plain runs; ``None``: no corrections.
        branches: Fit weights of its own to each guidance branch.
        quantised: Of a quantised model its pass, which lies beneath every candidate.
    """

    pipe: Any
    draw: Draw
    reference: Recording
    groups: Groups
    moments: Moments | None
    branches: bool = False
    quantised: QuantizeConfig | None = None

    def cache(self, genome: Genome) -> StaticCacheConfig:
        """What its sites do, with corrections fitted to plain runs."""
        schedule = genome.schedule(self.groups)
        corrections: dict[str, torch.Tensor] = {}
        if genome.strength and self.moments is not None:
            corrections = self.moments.corrections(
                schedule, depth=genome.depth, absent=genome.answered, strength=genome.strength
            )
        return StaticCacheConfig(schedule=schedule, corrections=corrections)

    def beneath(self, genome: Genome) -> tuple[QuantizeConfig, ...]:
        """What quantises it, with its exact ends."""
        if self.quantised is None:
            return ()
        first, last = genome.exact
        return (replace(self.quantised, exact_first=first, exact_last=last, originals="keep"),)

    def fit(self, genome: Genome, count: int) -> tuple[tuple[PassConfig, ...], torch.Tensor, float]:
        """Its passes, the pictures of its own run, and the error of its last latents; over the first prompts."""
        trajectory, _ = without_corrections(genome, self.groups)
        cache = self.cache(genome)
        # Sites are to know which evaluations are not there; where none is reused a half call must reach the denoiser.
        under: tuple[PassConfig, ...] = (trajectory, cache) if genome.reused else (TrajectoryConfig(speedup=1.0),)
        beneath = self.beneath(genome)
        run = Runner(
            pipe=self.pipe,
            draw=self.draw,
            reference=self.reference.of(0, count),
            computed=frozenset(genome.computed),
            first=0,
            last=count,
            branches=self.branches and bool(genome.answered),
            conditional=frozenset(genome.conditional),
            ridges=(genome.ridge,) if genome.ridge else RIDGES,
            most_gain=MOST_GAIN if beneath else math.inf,
            under=(*beneath, *under),
        ).run()
        passes: tuple[PassConfig, ...] = (run.learner.config(), cache) if genome.answered else (cache,)
        return (*beneath, *passes), run.pictures, float((run.errors**2).mean())

    def __call__(self, task: tuple[Genome, int]) -> SiteVerdict:
        """Judge a genome by its first so many prompts; one that cannot be is told by its fault."""
        genome, count = task
        nothing = SiteVerdict(genome=genome, num_prompts=count)
        try:
            _, pictures, error = self.fit(genome, count)
        except (ConfigError, np.linalg.LinAlgError, FloatingPointError) as failed:
            return replace(nothing, fault=f"its fit failed: {in_a_line(failed)}")
        if not torch.isfinite(pictures).all() or not math.isfinite(error):
            return replace(nothing, fault="its pictures are not finite (NaN or infinity)")
        try:
            found = self._scored(nothing, pictures, error)
        except (MissingDependencyError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as failed:  # a scorer is anybody's code
            return replace(nothing, fault=f"scoring it failed: {type(failed).__name__}: {in_a_line(failed)}")
        if not np.isfinite([found.psnr_db, found.worst_db, found.st_lpips or 0.0]).all():
            return replace(nothing, fault="its scores are not finite (NaN or infinity)")
        return found

    def _scored(self, nothing: SiteVerdict, pictures: torch.Tensor, error: float) -> SiteVerdict:
        count = nothing.num_prompts
        networks = [name for name in available_perceptual() if name == "st_lpips"]
        scores = fidelity(pictures, self.reference.pictures[:count], perceptual=networks)
        in_order = sorted(scores.psnr_db)
        worst = in_order[: max(1, int(len(in_order) * WORST_FRAC))]
        return replace(
            nothing,
            psnr_db=round(math.fsum(in_order) / len(in_order), 4),
            worst_db=round(math.fsum(worst) / len(worst), 4),
            st_lpips=None if scores.st_lpips is None else round(math.fsum(scores.st_lpips) / count, 6),
            error=error,
        )


def rungs(count: int) -> tuple[int, ...]:
    """How many prompts the rounds of successive halving take: a quarter, a half, all; at least two."""
    return tuple(sorted({max(2, count // 4), max(2, count // 2), count}))


def front_of_sites(points: Sequence[SitePoint]) -> tuple[SitePoint, ...]:
    """Those that no other one beats in seconds and score, fastest first; of points judged by all prompts alone."""
    most = max((point.num_prompts for point in points), default=0)
    found: list[SitePoint] = []
    for point in sorted(points, key=lambda each: (each.seconds, -each.score_db)):
        if point.fault is None and point.num_prompts == most and (not found or point.score_db > found[-1].score_db):
            found.append(point)
    return tuple(found)
