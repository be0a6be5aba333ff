"""The one schema of every measurement. Whoever shows a number reads it from here; nobody computes it anew.

The file is JSON, checked when it is read and when it is made: an unknown key is an error. Every version up to this
one is read; what an older one lacks has a default. A newer one is refused with the advice to update. Whatever adds a
key raises ``VERSION``, so that older readers give that advice instead of stumbling over the key.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, ValidationError, model_validator

from dit_accel.errors import ConfigError, did_you_mean
from dit_accel.evaluation.reports.contest import Absent, Contender
from dit_accel.evaluation.reports.environment import Environment
from dit_accel.evaluation.reports.records import Evaluation as Evaluation
from dit_accel.evaluation.reports.records import Fidelity as Fidelity
from dit_accel.evaluation.reports.records import Metric as Metric
from dit_accel.evaluation.reports.records import Quality, Record
from dit_accel.evaluation.reports.times import DenoiserCost as DenoiserCost
from dit_accel.evaluation.reports.times import Speedup as Speedup
from dit_accel.evaluation.reports.times import Times as Times
from dit_accel.plan.bounds import REPORT_FILE as REPORT_FILE
from dit_accel.plan.claims import EffectClaim
from dit_accel.plan.conditions import Conditions

FORMAT: Final = "dit-accel/report"
# 4 knows what every pass did, where older ones counted reused outputs alone. 3 added evaluations, which are not timed,
# and quality by category. 2 added perceptual distances, video and quality, n to metrics, intervals of speed-ups,
# contenders and who was absent, denoiser times without multiply-accumulates, and, in the settings, num_timed,
# prompt_list and conditions. Older ones are read as they were.
VERSION = 4


class Effects(Record):
    """What the passes of a plan said that they do, and what they did, over all denoisers.

    Attributes:
        passes: Of each pass that has something to say.
        kept_mib: Most memory that kept values took at once.
    """

    passes: tuple[EffectClaim, ...] = ()
    kept_mib: float = Field(default=0.0, ge=0)

    @property
    def main(self) -> EffectClaim | None:
        """The pass that plans to save most; the first of equals."""
        return max(self.passes, key=lambda effect: effect.planned_frac, default=None)

    @property
    def did_something(self) -> bool:
        """Whether any pass acted; where that was not counted, whether it planned to."""
        return any(e.planned_frac if e.actual_frac is None else e.actual_frac for e in self.passes)

    @classmethod
    def mean(cls, several: Sequence["Effects"]) -> "Effects":
        """Over batches of the same plan; every batch has the same number of steps, so each counts the same."""
        by_pass = [[each.passes[place] for each in several] for place in range(len(several[0].passes))]
        return cls(passes=tuple(_mean(claims) for claims in by_pass), kept_mib=max(each.kept_mib for each in several))


def _mean(claims: Sequence[EffectClaim]) -> EffectClaim:
    actual = [claim.actual_frac for claim in claims if claim.actual_frac is not None]
    return claims[0].model_copy(
        update={
            "planned_frac": sum(claim.planned_frac for claim in claims) / len(claims),
            "actual_frac": sum(actual) / len(actual) if len(actual) == len(claims) else None,
        }
    )


class Settings(Record):
    """How all variants were run.

    Attributes:
        model: Name, folder or hub id.
        pipeline_class: E.g. ``PixArtAlphaPipeline``; this and the next two are empty, and the steps 0, where images
            were not made by us.
        denoiser_class: E.g. ``PixArtTransformer2DModel``.
        scheduler: Class of the scheduler.
        num_inference_steps: Steps of the plain pipeline; ``Variant`` has its own.
        guidance_scale: ``None``: the pipeline's default.
        height: Pixels; of the images that came out.
        width: Pixels.
        num_frames: Of each video that came out; ``None``: images.
        batch_size: Images or videos a pipeline call.
        device: E.g. ``cpu`` or ``cuda:0``.
        dtype: Of the denoiser.
        repeats: Timed runs of each variant; 0: nothing was timed.
        warmup: Untimed runs of each before them.
        num_timed: Images or videos that a timed run made, the first of all samples; ``None``: all.
        prompt_list: Which shipped list the prompts are, e.g. ``certify``; ``None``: the caller's own.
        conditions: What could be told of the accelerated run, e.g. the guidance scale where it was left to the
            pipeline.
    """

    model: str
    pipeline_class: str
    denoiser_class: str
    scheduler: str
    num_inference_steps: int
    guidance_scale: float | None
    height: int
    width: int
    num_frames: int | None = None
    batch_size: int
    device: str
    dtype: str
    repeats: int
    warmup: int
    num_timed: int | None = None
    prompt_list: str | None = None
    conditions: Conditions | None = None


class ReportSample(Record):
    """One image or video that every variant made."""

    prompt: str
    seed: int


class Variant(Record):
    """One way to run the pipeline.

    Attributes:
        name: Unique in the report, e.g. ``fast``.
        kind: ``plain``: the reference; ``plan``: accelerated; ``fewer_steps``: the plain pipeline with fewer steps,
            the rival that every acceleration has to beat; ``rival``: a technique of others; ``images``: a folder of
            images that were made elsewhere.
        rival_of: For ``fewer_steps``: the plan whose time its step count was chosen to meet.
        num_inference_steps: Steps of this variant.
        plan: The plan as JSON data.
        certified: Whether the plan carries a certificate.
        times: Wall-clock; ``None`` in an evaluation, which may be stopped and shared out and so has no clock.
        speedup: Against ``plain``; ``None`` for ``plain`` itself.
        fidelity: Against ``plain``; ``None`` for ``plain`` itself.
        quality: Without regard to ``plain``; ``None`` where it was not measured.
        effects: What its passes did; ``None`` without a plan.
        denoiser: ``None`` where only whole runs were timed.
        contender: In a comparison of techniques: which one, with which parameters, and what it did.
    """

    name: str
    kind: Literal["plain", "plan", "fewer_steps", "rival", "images"]
    rival_of: str | None = None
    num_inference_steps: int
    plan: dict[str, Any] | None = None
    certified: bool | None = None
    times: Times | None = None
    speedup: Speedup | None = None
    fidelity: Fidelity | None = None
    quality: Quality | None = None
    effects: Effects | None = None
    denoiser: DenoiserCost | None = None
    contender: Contender | None = None

    @model_validator(mode="before")
    @classmethod
    def _older(cls, data: Any) -> Any:
        """Reports up to version 3 know of one pass, which kept module outputs."""
        if not isinstance(data, dict) or "reuse" not in data:
            return data
        reuse = data["reuse"]
        rest = {key: value for key, value in data.items() if key != "reuse"}
        if reuse is None:
            return rest
        shares = {key: reuse.get(key) for key in ("planned_frac", "actual_frac")}
        claim = {"name": "static_cache", "what": "scheduled module calls saved", **shares}
        return {**rest, "effects": {"passes": [claim], "kept_mib": reuse.get("kept_mib", 0.0)}}


class Report(Record):
    """One measurement: what was run where, and what came out.

    Attributes:
        format: Always ``dit-accel/report``.
        version: Of this schema.
        created_utc: ISO 8601.
        command: The command line.
        environment: The machine and its software.
        settings: How it was run.
        samples: Prompt and seed of each image or video.
        variants: The plain pipeline first.
        notes: What a reader must know, one sentence each.
        absent: In a comparison of techniques: which were not measured, and why.
        evaluation: Of ``dit-accel evaluate``: which one, on which prompts and real images.
    """

    format: Literal["dit-accel/report"] = FORMAT
    version: int = VERSION
    created_utc: str
    command: tuple[str, ...]
    environment: Environment
    settings: Settings
    samples: tuple[ReportSample, ...]
    variants: tuple[Variant, ...]
    notes: tuple[str, ...] = ()
    absent: tuple[Absent, ...] = ()
    evaluation: Evaluation | None = None

    @property
    def num_images(self) -> int:
        """n: images or videos each variant made."""
        return len(self.samples)

    @property
    def made(self) -> str:
        """What each variant made, in words: ``3 images``, or ``1 video of 16 frames``."""
        frames = self.settings.num_frames
        words = f"{self.num_images} {'image' if frames is None else 'video'}{'s' if self.num_images != 1 else ''}"
        return words if frames is None else f"{words} of {frames} frames"

    def variant(self, name: str) -> Variant:
        """The variant called ``name``.

        Raises:
            ConfigError: There is none.
        """
        for variant in self.variants:
            if variant.name == name:
                return variant
        names = [variant.name for variant in self.variants]
        raise ConfigError(
            f"the report has no variant '{name}'.{did_you_mean(name, names)} It has: {', '.join(names)}."
        )

    def save(self, path: str | Path) -> Path:
        """Write the report as JSON; a folder gets a ``report.json``. Returns the file's path."""
        path = Path(path)
        path = path if path.suffix == ".json" else path / REPORT_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Report":
        """Read a report of this or an older version from a file, or from the ``report.json`` of a folder.

        Raises:
            ConfigError: Nothing is there, it is not a report or a newer one, or a key or value is not valid.
        """
        path = Path(path)
        path = path / REPORT_FILE if path.is_dir() else path
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"no report at '{path}': {error.strerror or error}") from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"'{path}' is not valid JSON ({error}); the file may be truncated") from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ConfigError(f"'{path}' is not a dit-accel report: its 'format' is not '{FORMAT}'")
        version = data.get("version", 1)
        if not isinstance(version, int) or version < 1:
            raise ConfigError(f"'{path}' has report version {version!r}; it must be a whole number from 1")
        if version > VERSION:
            raise ConfigError(f"'{path}' has report version {version}, this dit-accel reads {VERSION}: update")
        try:
            return cls.model_validate({**data, "version": VERSION})
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(str(p) for p in f['loc'])}: {f['msg']}" for f in error.errors()[:5])
            raise ConfigError(f"'{path}' is not a valid report: {faults}") from error
