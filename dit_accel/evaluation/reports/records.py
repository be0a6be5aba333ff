"""What a metric leaves in a report: the whole distribution, not its mean alone. ``report.py`` puts it together.

Fidelity (close to the plain run?) and quality (good by itself?) are two records and never share a column.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dit_accel.evaluation.reports.scores import FidelityScores
from dit_accel.evaluation.reports.statistics import RESAMPLES, bootstrap_interval, worst_mean
from dit_accel.plan.conformal import Bound, conformal_bound

BOOTSTRAP_SEED = 0


class Record(BaseModel):
    """Frozen, finite, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Metric(Record):
    """One metric over all images or videos, which are the units: a video's frames are not independent of each other.

    Attributes:
        per_image: One value an image, or the mean over the frames of a video, in the order of ``Report.samples``.
        mean: Their mean.
        ci95: Percentile bootstrap interval of the mean (Efron 1979), 2000 resamples of images or videos, seed 0.
        worst5: Mean of the worst five per cent (at least one).
        n: Images or videos.
        higher_is_better: Which end is the worst.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
    """

    per_image: tuple[float, ...] = Field(min_length=1)
    mean: float
    ci95: tuple[float, float]
    worst5: float
    n: int = Field(ge=1)
    higher_is_better: bool = True
    resamples: int = RESAMPLES
    seed: int = BOOTSTRAP_SEED

    @model_validator(mode="before")
    @classmethod
    def _count(cls, data: Any) -> Any:
        """Reports of version 1 do not say how many."""
        if isinstance(data, dict) and "n" not in data and isinstance(data.get("per_image"), list | tuple):
            return {**data, "n": len(data["per_image"])}
        return data

    @property
    def bound(self) -> Bound | None:
        """What nine of ten new prompts keep, if these were held out; see :mod:`dit_accel.plan.conformal`."""
        return conformal_bound(self.per_image, higher_is_better=self.higher_is_better)

    @classmethod
    def of(cls, values: Sequence[float], *, higher_is_better: bool = True, seed: int = BOOTSTRAP_SEED) -> "Metric":
        """Summarise values, one an image or video."""
        low, high = bootstrap_interval(values, seed=seed)
        return cls(
            per_image=tuple(values),
            mean=sum(values) / len(values),
            ci95=(low, high),
            worst5=worst_mean(values, higher_is_better=higher_is_better),
            n=len(values),
            higher_is_better=higher_is_better,
            seed=seed,
        )


class VideoFidelity(Record):
    """Whether a video changes over time as the plain one does.

    Attributes:
        temporal_error: Mean absolute difference between the two videos' frame-to-frame changes, in [0, 2]; lower is
            closer.
        flicker_ratio: Flicker of the video over that of the plain one; above 1 it flickers more.
    """

    temporal_error: Metric
    flicker_ratio: Metric


class Fidelity(Record):
    """Closeness to the plain pipeline's image or video of the same prompt, seed and scheduler. Not image quality.

    Attributes:
        psnr_db: dB, higher is closer.
        ssim: At most 1, higher is closer.
        lpips: LPIPS with AlexNet, lower is closer; ``None`` where it was not measured.
        st_lpips: Shift-tolerant LPIPS with AlexNet, another network with other values; lower is closer.
        video: ``None`` for images.
    """

    psnr_db: Metric
    ssim: Metric
    lpips: Metric | None = None
    st_lpips: Metric | None = None
    video: VideoFidelity | None = None

    @classmethod
    def of(cls, scores: FidelityScores) -> "Fidelity":
        """Summarise what :func:`dit_accel.evaluation.metrics.fidelity.fidelity` returned."""

        def lower(values: tuple[float, ...] | None) -> Metric | None:
            return None if values is None else Metric.of(values, higher_is_better=False)

        error, ratio = lower(scores.temporal_error), lower(scores.flicker_ratio)
        return cls(
            psnr_db=Metric.of(scores.psnr_db),
            ssim=Metric.of(scores.ssim),
            lpips=lower(scores.lpips),
            st_lpips=lower(scores.st_lpips),
            video=VideoFidelity(temporal_error=error, flicker_ratio=ratio) if error and ratio else None,
        )


class Distance(Record):
    """A distance of a set of generated images to a named set of real ones; lower is better.

    Attributes:
        name: It names the feature network, for example ``FD-EffNetLite0``; ``FID`` and ``KID`` are InceptionV3's.
        value: The distance. A kernel distance is unbiased and may be a little below zero.
        spread: Of a kernel distance: standard deviation over the blocks. Blocks overlap, so it is no standard error.
        blocks: Of a kernel distance.
        block_size: Images of each set in a block.
        network: Name of the feature network.
        weights_sha256: Of its weights file.
        resize: How images were brought to the network's size.
        crop: What was cut off before.
        reference: Which real images, in words.
        n_real: How many of them.
        n_generated: How many generated ones.
    """

    name: str
    value: float
    spread: float | None = None
    blocks: int | None = None
    block_size: int | None = None
    network: str
    weights_sha256: str
    resize: str
    crop: str
    reference: str
    n_real: int = Field(ge=2)
    n_generated: int = Field(ge=2)


class Alignment(Record):
    """How well images show what their captions say, by one judge.

    Attributes:
        name: Of the judge, for example ``CLIP score`` or ``emoji-two-tower``.
        unit: Of its values, for example ``cosine``.
        model: Which model and weights, in words.
        scores: One value an image; higher is better.
    """

    name: str
    unit: str
    model: str
    scores: Metric


class VideoQuality(Record):
    """What can be said of videos by themselves.

    Attributes:
        temporal_flickering: VBench's: 1 less the mean absolute difference of neighbouring frames. A still scores 1.
        motion_right: 1 where a video moves as its caption says, else 0; ``None`` where captions name no motion.
        frame_consistency: VBench's subject consistency, on the network that is named beside it: how alike each frame's
            features are to the first frame's and to the one before.
        consistency_network: Its feature network.
    """

    temporal_flickering: Metric
    motion_right: Metric | None = None
    frame_consistency: Metric | None = None
    consistency_network: str | None = None


class Quality(Record):
    """How good the images or videos of one variant are by themselves.

    Attributes:
        distances: To a real set.
        alignment: With the captions, a judge each.
        video: ``None`` for images.
        categories: The same of the prompts of one category each.
    """

    distances: tuple[Distance, ...] = ()
    alignment: tuple[Alignment, ...] = ()
    video: VideoQuality | None = None
    categories: dict[str, "Quality"] = Field(default_factory=dict)


class Skipped(Record):
    """Something that could not be used.

    Attributes:
        where: For example ``prompts.tsv, line 7``, or a file's name.
        why: In words.
    """

    where: str
    why: str


class Evaluation(Record):
    """What an evaluation was of.

    Attributes:
        suite: Its name, for example ``coco``.
        prompts: Name of the prompt file, or of the shipped list.
        prompts_sha256: Of the prompts and seeds that were used.
        per_prompt: Images or videos of each prompt.
        reference: Name of the folder of real images; ``None`` without one.
        num_reference: Images in it that could be read.
        num_skipped: Prompts and images that could not be used; none of them is in any number.
        skipped: The first of them.
        redrawn: Images of ours that were found damaged and made anew.
    """

    suite: str
    prompts: str
    prompts_sha256: str
    per_prompt: int = 1
    reference: str | None = None
    num_reference: int = 0
    num_skipped: int = 0
    skipped: tuple[Skipped, ...] = ()
    redrawn: tuple[str, ...] = ()
