"""Judges candidates of calls and sites by real runs: a few prompts first, all of them for those that do well."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from dit_accel.calibration.corrections import Moments
from dit_accel.calibration.latency import Pricing
from dit_accel.calibration.learner import Learner
from dit_accel.calibration.recording import Draw, Recording, listening
from dit_accel.calibration.sites_genome import Genome, Groups
from dit_accel.evaluation.metrics.fidelity import fidelity
from dit_accel.evaluation.metrics.perceptual import available_perceptual
from dit_accel.passes.static_cache import StaticCacheConfig
from dit_accel.passes.trajectory.config import TrajectoryConfig
from dit_accel.plan.config import PassConfig

WORST_FRAC = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePoint:
    """A candidate as real runs on search prompts judged it.

    Attributes:
        genome: What it computes.
        num_prompts: How many prompts it was fitted to and judged by.
        seconds: Of a run, by the table of site times.
        speedup: Seconds of the plain run by the same table, divided by these.
        macs_frac: Multiply-accumulates of the denoisers by those of the plain run.
        psnr_db: Mean over prompts of the PSNR of pictures to the plain run's.
        worst_db: Mean over the worst tenth of the prompts, at least one.
        st_lpips: Mean ST-LPIPS; ``None``: not measured.
        error: Mean square of the distance of the last latents from the plain run's, relative to these.
        fault: Why it could not be judged, its scores then being nought; ``None``: it was.
    """

    genome: Genome
    num_prompts: int
    seconds: float
    speedup: float
    macs_frac: float
    psnr_db: float
    worst_db: float
    st_lpips: float | None
    error: float
    fault: str | None = None

    @property
    def score_db(self) -> float:
        """What the search maximises: the mean and the worst count alike."""
        return (self.psnr_db + self.worst_db) / 2

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        names = ("num_prompts", "seconds", "speedup", "macs_frac", "psnr_db", "worst_db", "st_lpips", "error", "fault")
        return {"genome": self.genome.to_dict(), **{name: getattr(self, name) for name in names}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "SitePoint":
        """Read what :meth:`to_dict` wrote."""
        return cls(**{**data, "genome": Genome.from_dict(data["genome"])})


@dataclass(slots=True, kw_only=True)
class SiteJudge:
    """Fits a candidate's weights on its own run and compares its pictures with the plain ones.

    Attributes:
        pipe: The pipeline.
        draw: Draws prompts.
        reference: Recorded over all prompts.
        groups: Of sites.
        moments: Of their outputs in plain runs; ``None``: no corrections.
        pricing: Of the pipeline.
        plain_s: Seconds of the plain run, by the same table.
    """

    pipe: Any
    draw: Draw
    reference: Recording
    groups: Groups
    moments: Moments | None
    pricing: Pricing
    plain_s: float

    def cache(self, genome: Genome) -> StaticCacheConfig:
        """What its sites do, with corrections fitted to plain runs."""
        schedule = genome.schedule(self.groups)
        corrections: dict[str, torch.Tensor] = {}
        if genome.strength and self.moments is not None:
            corrections = self.moments.corrections(
                schedule, depth=genome.depth, absent=genome.answered, strength=genome.strength
            )
        return StaticCacheConfig(schedule=schedule, corrections=corrections)

    def without_corrections(self, genome: Genome) -> tuple[PassConfig, ...]:
        """What it computes, to be priced: corrections and weights cost next to nothing."""
        trajectory = TrajectoryConfig(computed=tuple(step in genome.computed for step in range(genome.num_steps)))
        return (trajectory, StaticCacheConfig(schedule=genome.schedule(self.groups)))

    def fit(self, genome: Genome, count: int) -> tuple[tuple[PassConfig, ...], torch.Tensor, float]:
        """Its passes, the pictures of its own run, and the error of its last latents; over the first prompts."""
        trajectory, _ = self.without_corrections(genome)
        cache = self.cache(genome)
        reference = self.reference.of(0, count)
        learner = Learner(reference, frozenset(genome.computed))
        with listening(self.pipe, learner, (trajectory, cache)):
            pictures = self.draw(0, count)
        wanted = reference.latents[-1].flatten(1).double()
        off = (learner.latents.flatten(1).double() - wanted).norm(dim=1) / wanted.norm(dim=1)
        passes = (learner.config(), cache) if genome.answered else (cache,)
        return passes, pictures, float((off**2).mean())

    def __call__(self, genome: Genome, count: int) -> SitePoint:
        """Judge it by the first ``count`` prompts; one that cannot be is told by its fault."""
        cost, plain = self.pricing.of(self.without_corrections(genome)), self.pricing.of(())
        nothing = SitePoint(
            genome=genome,
            num_prompts=count,
            seconds=cost.seconds,
            speedup=round(self.plain_s / cost.seconds, 4),
            macs_frac=round((cost.macs or 0) / (plain.macs or 1), 4),
            psnr_db=0.0,
            worst_db=0.0,
            st_lpips=None,
            error=0.0,
        )
        try:
            _, pictures, error = self.fit(genome, count)
        except (np.linalg.LinAlgError, FloatingPointError) as failed:
            return replace(nothing, fault=f"its fit failed: {' '.join(str(failed).split())}")
        if not torch.isfinite(pictures).all() or not math.isfinite(error):
            return replace(nothing, fault="its pictures are not finite (NaN or infinity)")
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
