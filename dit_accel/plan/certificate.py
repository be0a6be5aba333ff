"""A certificate: what was measured of a plan on held-out prompts, where that holds, and whether it is this plan's.

It travels inside the plan's file; the report it was made from lies beside it. It is bound to the plan by a digest of
what the plan does, and sealed by a digest of its own numbers. The digests find what was edited, by hand or by mistake;
they are no signature: who wants to forge one can.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from pydantic import Field, ValidationError

from dit_accel.errors import ConfigError, did_you_mean
from dit_accel.plan.claims import Claim, EffectClaim, FewerSteps, Measured, Prompts, SpeedClaim
from dit_accel.plan.conditions import Conditions
from dit_accel.plan.facts import SPEEDUP, bound_words, interval_words, metric_facts, spread_words
from dit_accel.plan.fingerprint import Fingerprint, digest
from dit_accel.plan.weights import WeightSample

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

FORMAT: Final = "dit-accel/certificate"
# 2 knows what nine of ten new prompts keep. An older one is read as it was; where the report that it was made from
# lies beside it, the bounds are read from there (bounds.py).
VERSION = 2
BOUNDED = ("psnr_db", "lpips", "st_lpips")  # what is said of new prompts; all bounds are in the file
MIN_IMAGES = 200
MIN_VIDEOS = 100  # a video is many frames, and minutes of work; intervals are over videos, not over frames


class Certificate(Claim):
    """See the module.

    Attributes:
        format: Always ``dit-accel/certificate``.
        version: Of this record.
        created_utc: ISO 8601.
        dit_accel: Version of this library, and its git revision if it ran from a checkout.
        model: Name, folder or hub id of the pipeline that was measured.
        plan_sha256: Digest of what the plan does.
        report_sha256: Digest of the report's file.
        fingerprint: Of the model, or of each denoiser in turn where there are several.
        weights: Likewise; ``None`` where they could not be read.
        conditions: The run it holds for.
        num_inference_steps: What the scheduler was asked for; ``conditions.num_steps`` counts denoiser evaluations.
        height: Pixels.
        width: Pixels.
        num_frames: Of each video.
        prompts: What it was measured on.
        fidelity: By the names of ``report.Fidelity``.
        planned_frac: Largest share that a pass of the plan says it saves.
        actual_frac: Share that it saved; ``None``: compiled, not counted call by call.
        effects: What every pass said and did; ``None``: of a version that knew module calls only.
        speed: Where it was timed, and how much faster.
        rival: ``None`` when no smaller number of plain steps takes as long.
        seal: Digest of all of the above.
    """

    format: Literal["dit-accel/certificate"] = FORMAT
    version: int = VERSION
    created_utc: str
    dit_accel: str
    model: str
    plan_sha256: str
    report_sha256: str
    fingerprint: Fingerprint | tuple[Fingerprint, ...]
    weights: WeightSample | tuple[WeightSample | None, ...] | None = None
    conditions: Conditions
    num_inference_steps: int
    height: int
    width: int
    num_frames: int | None = None
    prompts: Prompts
    fidelity: dict[str, Measured]
    planned_frac: float = Field(ge=0, le=1)
    actual_frac: float | None = Field(default=None, ge=0, le=1)
    effects: tuple[EffectClaim, ...] | None = None
    speed: SpeedClaim
    rival: FewerSteps | None = None
    seal: str = ""

    @classmethod
    def checked(cls, data: Mapping[str, Any], where: str) -> "Certificate":
        """Read one from JSON data.

        Older versions are read, with defaults for what they lack; a newer one is refused.

        Raises:
            ConfigError: It is no certificate, or a newer one, or a key or value is not valid.
        """
        if data.get("format") != FORMAT:
            raise ConfigError(f"{where}: its 'certificate' is none: 'format' is not '{FORMAT}'")
        version = data.get("version")
        if not isinstance(version, int) or version < 1:
            raise ConfigError(f"{where}: the certificate's 'version' must be a whole number from 1, got {version!r}")
        if version > VERSION:
            raise ConfigError(
                f"{where} has certificate version {version}, this dit-accel reads {VERSION}: update dit-accel"
            )
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            faults = "; ".join(_in_words(fault) for fault in error.errors()[:5])
            raise ConfigError(f"{where}: the certificate is not valid: {faults}") from error

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return self.model_dump(mode="json")

    def sealed(self) -> "Certificate":
        """The same with its seal."""
        return self.model_copy(update={"seal": self._digest()})

    @property
    def fingerprints(self) -> tuple[Fingerprint, ...]:
        """One for each denoiser."""
        return self.fingerprint if isinstance(self.fingerprint, tuple) else (self.fingerprint,)

    @property
    def weight_samples(self) -> tuple[WeightSample | None, ...]:
        """One for each denoiser."""
        return self.weights if isinstance(self.weights, tuple) else (self.weights,)

    @property
    def is_whole(self) -> bool:
        """Whether its seal is that of its numbers."""
        return self.seal == self._digest()

    def fault(self, plan_sha256: str, found: tuple[Fingerprint, ...]) -> str | None:
        """Why it certifies nothing; ``None``: it is whole, large enough, and of this plan.

        Args:
            plan_sha256: Digest of the plan that carries it.
            found: The fingerprints of that plan.
        """
        least = minimum(self.prompts.kind)
        if self.plan_sha256 != plan_sha256 or self.fingerprints != found:
            return "the plan was changed after it was certified"
        if not self.is_whole:
            return "the certificate was changed after it was issued"
        if self.prompts.n < least:
            return f"it was measured on {self.prompts.n} {self.prompts.kind}s; a certificate takes {least}"
        return None

    def is_of_report(self, path: Path) -> bool:
        """Whether this report file is the one it was made from."""
        return sha256_of(path) == self.report_sha256

    def speed_gap(self, parameter: "torch.Tensor") -> str | None:
        """Why the speed-up was not measured for a denoiser with this parameter; ``None``: it was on such a device."""
        here = (parameter.device.type, str(parameter.dtype).removeprefix("torch."))
        if here == (self.speed.device, self.speed.dtype):
            return None
        return (
            f"its speed-up does not hold here: measured on {self.speed.device} in {self.speed.dtype}, this is "
            f"{here[0]} in {here[1]}"
        )

    def words(self) -> tuple[str, ...]:
        """What it says, for people, a sentence each."""
        lines = [f"on {self._subject()}: {_fidelity_words(self.fidelity)}"]
        lines += [] if (bounds := _bounds_words(self.fidelity)) is None else [bounds]
        lines.append(self._speed_words())
        if self.rival is not None:
            lines.append(
                f"plain with {self.rival.num_inference_steps} steps instead, {SPEEDUP.number(self.rival.run_ratio)} "
                f"faster: {_fidelity_words(self.rival.fidelity)}"
            )
        missing = [] if {"lpips", "st_lpips"} & set(self.fidelity) else ["a perceptual distance (LPIPS)"]
        missing += ["image quality on its own (alignment, distance to real images)", "speed on any other device"]
        missing += ["rival: no smaller number of plain steps takes as long"] if self.rival is None else []
        return (*lines, f"not measured: {'; '.join(missing)}")

    def _subject(self) -> str:
        size = f"{self.width}x{self.height}" + ("" if self.num_frames is None else f", {self.num_frames} frames")
        guidance, adapters = self.conditions.guidance_scale, self.conditions.adapters
        true_cfg = self.conditions.true_cfg_scale
        parts = [self.model, self.conditions.scheduler, f"{self.num_inference_steps} steps", size]
        parts += [] if guidance is None else [f"guidance {guidance:g}"]
        parts += [] if true_cfg is None or true_cfg == 1 else [f"true guidance {true_cfg:g}"]
        parts += [f"LoRA {', '.join(adapters)}"] if adapters else []
        held_out = "held-out prompts" if self.prompts.source == "certify" else "prompts of the certifier's own"
        kind = "" if self.prompts.kind == "image" else " for videos"
        return f"{self.prompts.n} {held_out}{kind} ({', '.join(str(part) for part in parts)})"

    def _speed_words(self) -> str:
        speed = self.speed
        threads = "" if speed.threads is None else f", {speed.threads} thread{'s' if speed.threads != 1 else ''}"
        denoiser = interval_words(SPEEDUP, speed.denoiser_ratio, speed.denoiser_ci95)
        run = interval_words(SPEEDUP, speed.run_ratio, speed.run_ci95)
        return (
            f"denoiser {denoiser} faster, whole run {run}, on {speed.device_name} ({speed.dtype}, batch of "
            f"{speed.batch_size}{threads}; {speed.rounds} interleaved rounds)"
        )

    def _digest(self) -> str:
        # Without what is None: a field that a later version adds leaves older seals whole.
        return digest(self.model_dump(mode="json", exclude={"seal"}, exclude_none=True))


def one_or_all(several: tuple[T, ...]) -> T | tuple[T, ...]:
    """As a certificate keeps what is of each denoiser: by itself where there is one."""
    return several[0] if len(several) == 1 else several


def minimum(kind: str) -> int:
    """The least number of images or videos of a certificate."""
    return MIN_IMAGES if kind == "image" else MIN_VIDEOS


def sha256_of(path: Path) -> str:
    """Digest of a file's content, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _fidelity_words(fidelity: Mapping[str, Measured]) -> str:
    return "; ".join(spread_words(metric_facts(name), measured) for name, measured in fidelity.items())


def _bounds_words(fidelity: Mapping[str, Measured]) -> str | None:
    """``9 of 10 new prompts like these stay above PSNR 51.2 dB and below ST-LPIPS 0.001``; PSNR and a distance."""
    names = [name for name in BOUNDED if name in fidelity]
    bounds = {name: bound for name in names if (bound := fidelity[name].bound) is not None}
    if not bounds:
        return None
    first = next(iter(bounds.values()))
    words = " and ".join(bound_words(metric_facts(name), bound) for name, bound in bounds.items())
    each = ", each by itself" if len(bounds) > 1 else ""
    return f"{first.share} new prompts like these stay {words} (split conformal, n = {first.n}{each})"


def _in_words(fault: Any) -> str:
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden" and len(fault["loc"]) == 1:
        return f"unknown key '{place}'.{did_you_mean(place, Certificate.model_fields)}"
    return f"'{place}': {fault['msg']}"
