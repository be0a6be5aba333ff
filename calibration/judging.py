"""Judges one candidate: fits its weights, and compares what it then draws with the plain run's pictures.

A candidate whose numbers or pictures are not finite, or at which a scorer fails, is skipped with the reason: that is
its own fault, and no reason to end a search of hours. What is wrong with every candidate alike ends it.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dit_accel.calibration.calls import Steps, halves, whole
from dit_accel.calibration.cohorts import in_cohorts
from dit_accel.calibration.fit import Fitted, fit
from dit_accel.calibration.front import Point
from dit_accel.calibration.recording import Draw, Recording
from dit_accel.errors import AccelerationWarning, ConfigError, MissingDependencyError
from dit_accel.evaluation.metrics.fidelity import differences
from dit_accel.evaluation.metrics.perceptual import available_perceptual
from dit_accel.pipelines.generation import GenerationSettings, generate
from dit_accel.plan.config import PassConfig, config_from_dict

SEED = 50_000  # of the first prompt; certificates count from 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of a candidate.

    Attributes:
        computed: Its evaluations.
        point: How it was judged; ``None``: it was skipped.
        config: Its plan, fitted.
        why: Why it was skipped.
    """

    computed: Steps
    point: Point | None = None
    config: PassConfig | None = None
    why: str = ""

    def to_plain(self) -> dict[str, Any]:
        """JSON data, tensors included: what travels between processes."""
        return {
            "computed": list(self.computed),
            "point": None if self.point is None else self.point.to_dict(),
            "config": None if self.config is None else self.config.to_dict(),
            "tensors": {} if self.config is None else {k: v.tolist() for k, v in self.config.tensors().items()},
            "why": self.why,
        }

    @classmethod
    def from_plain(cls, data: dict[str, Any]) -> "Verdict":
        """Read what :meth:`to_plain` wrote."""
        config = data["config"]
        tensors = {name: torch.tensor(rows, dtype=torch.float64) for name, rows in data["tensors"].items()}
        return cls(
            computed=tuple(data["computed"]),
            point=None if data["point"] is None else Point.from_dict(data["point"]),
            config=None if config is None else config_from_dict(config, tensors),
            why=data["why"],
        )


def drawing(pipe: Any, prompts: Sequence[str], settings: GenerationSettings) -> Draw:
    """Draws search prompts, each with its seed: the same in every process."""

    def draw(first: int, last: int) -> torch.Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AccelerationWarning)
            return generate(pipe, prompts[first:last], range(SEED + first, SEED + last), settings)

    return draw


class Judge:
    """Fits and judges candidates on one pipeline.

    Args:
        pipe: The pipeline.
        draw: Draws its search prompts.
        reference: Their plain run; outputs are not needed.
        branches: Fit weights of its own to each guidance branch.
        tail: How much more difficult prompts count in a fit.
        cohort: Rows of a batch that the denoiser sees at a time; ``None``: all.
    """

    def __init__(
        self,
        pipe: Any,
        draw: Draw,
        reference: Recording,
        *,
        branches: bool = False,
        tail: float = 0.0,
        cohort: int | None = None,
    ) -> None:
        self.pipe = pipe
        self.draw = draw
        self.reference = reference
        self.branches = branches
        self.tail = tail
        self.cohort = cohort

    def fit(self, steps: Steps, sweeps: int = 0) -> Fitted:
        """Fit a candidate on all search prompts."""
        count = len(self.reference.pictures)
        with in_cohorts(self.pipe, self.cohort):
            return fit(
                self.pipe,
                self.draw,
                self.reference,
                whole(steps),
                0,
                count,
                branches=self.branches,
                conditional=halves(steps),
                tail=self.tail,
                sweeps=sweeps,
            )

    def __call__(self, steps: Steps) -> Verdict:
        """Fit and judge a candidate, or say why it cannot be.

        Raises:
            UnsupportedModelError: No candidate can be fitted to this scheduler.
        """
        try:
            result = self.fit(steps)
        except (ConfigError, np.linalg.LinAlgError, FloatingPointError) as error:
            return Verdict(computed=steps, why=f"its fit failed: {in_a_line(error)}")
        for name, values in (("latents", result.latents), ("pictures", result.pictures)):
            if not torch.isfinite(values).all():
                return Verdict(computed=steps, why=f"its {name} are not finite (NaN or infinity)")
        try:
            point = judged(steps, result, self.reference)
        except (MissingDependencyError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a scorer is anybody's code
            return Verdict(computed=steps, why=f"scoring it failed: {type(error).__name__}: {in_a_line(error)}")
        if not np.isfinite([point.psnr_db, point.worst_db, point.st_lpips or 0.0]).all():
            return Verdict(computed=steps, why="its scores are not finite (NaN or infinity)")
        return Verdict(computed=steps, point=point, config=result.config)


def judged(steps: Steps, result: Fitted, reference: Recording) -> Point:
    """How close a fitted plan's own run came to the plain one's pictures."""
    networks = [name for name in available_perceptual() if name == "st_lpips"]
    scores = differences(result.pictures, reference.pictures, perceptual=networks)
    in_order = sorted(scores["psnr_db"])
    worst = in_order[: max(1, len(in_order) // 10)]
    distances = scores.get("st_lpips")
    return Point(
        computed=steps,
        num_steps=reference.num_steps,
        psnr_db=round(sum(in_order) / len(in_order), 4),
        worst_db=round(sum(worst) / len(worst), 4),
        st_lpips=None if distances is None else round(sum(distances) / len(distances), 6),
    )


def in_a_line(error: Exception) -> str:
    """What an error says, without line breaks."""
    return " ".join(str(error).split()) or "no reason was given"
