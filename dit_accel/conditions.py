"""Which model and which run a plan or a certificate is for, and in words what differs from another one."""

import hashlib
import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dit_accel.errors import PlanMismatchError

if TYPE_CHECKING:
    from torch import nn

    from dit_accel.session import Target

_WORDS = {
    "pipeline": "the pipeline",
    "num_steps": "denoiser evaluations",
    "scheduler": "the scheduler",
    "latent_size": "the latent size",
    "guidance_scale": "the guidance scale",
    "adapters": "the LoRA adapters",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """Which model a plan is for.

    Attributes:
        model_class: Class name of the denoiser.
        sites: Digest of its site ids: the same for finetunes, different for other depths.
        config: Digest of its diffusers config: differs for another resolution or channel count too.
    """

    model_class: str
    sites: str
    config: str

    def compare(self, found: "Fingerprint") -> list[str]:
        """Doubts about using a plan for this fingerprint on ``found``.

        Raises:
            PlanMismatchError: Other class, or other sites: the schedule cannot mean the same thing.
        """
        if self.model_class != found.model_class:
            raise PlanMismatchError(f"the plan is for a {self.model_class}, this model is a {found.model_class}")
        if self.sites != found.sites:
            raise PlanMismatchError(
                f"the plan is for another {self.model_class}: its blocks or modules differ from this model's"
            )
        if self.config != found.config:
            return [f"the plan was made for a {self.model_class} with another config; its measurements may not hold"]
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Of a run; ``None`` means any, or, in what was found, that it could not be told.

    Attributes:
        num_steps: Denoiser evaluations per run.
        scheduler: Class name.
        scheduler_config: Its public settings; only those that both sides know are compared.
        latent_size: Spatial (and temporal) shape of the latents or the number of tokens, without batch and channels.
        guidance_scale: Classifier-free guidance scale.
        pipeline: Class name: image-to-image is another one.
        adapters: LoRA adapters in force, active or fused, each as ``"name@scale"``.
    """

    num_steps: int | None = None
    scheduler: str | None = None
    scheduler_config: Mapping[str, Any] | None = None
    latent_size: tuple[int, ...] | None = None
    guidance_scale: float | None = None
    pipeline: str | None = None
    adapters: tuple[str, ...] | None = None

    def doubts(self, found: "Conditions") -> list[str]:
        """In words, what differs between these conditions and those of a run."""
        differences = []
        for name, word in _WORDS.items():
            wanted, actual = getattr(self, name), getattr(found, name)
            if wanted is not None and actual is not None and wanted != actual:
                differences.append(f"{word}: {_said(name, actual)} instead of {_said(name, wanted)}")
        if self.scheduler == found.scheduler:
            differences += _config_doubts(self.scheduler_config or {}, found.scheduler_config or {})
        return differences


def fingerprint(target: "Target") -> Fingerprint:
    """The fingerprint of a live denoiser."""
    return Fingerprint(
        model_class=type(target.denoiser).__name__,
        sites=digest(sorted(site.id for site in target.layout.graph))[:16],
        config=digest(_public(getattr(target.denoiser, "config", {})))[:16],
    )


def conditions_of_run(
    owner: Any, scheduler: Any, denoiser: "nn.Module", *, num_steps: int, latent_size: tuple[int, ...] | None
) -> Conditions:
    """What can be told of a run from inside its first denoiser call. Reads no tensor values.

    Args:
        owner: The pipeline, or a stand-in with a ``scheduler`` for a bare denoiser.
        scheduler: The one that drives the run.
        denoiser: The module that is called.
        num_steps: Denoiser evaluations.
        latent_size: See :class:`Conditions`.
    """
    config = getattr(scheduler, "config", None)
    return Conditions(
        num_steps=num_steps,
        scheduler=type(scheduler).__name__,
        scheduler_config=None if config is None else {key: _plain(value) for key, value in _public(config).items()},
        latent_size=latent_size,
        guidance_scale=_guidance_of(owner),
        pipeline=type(owner).__name__ if hasattr(owner, "components") else None,
        adapters=adapters_of(denoiser),
    )


def adapters_of(denoiser: "nn.Module") -> tuple[str, ...]:
    """LoRA adapters in force, active or fused, each as ``"name@scale"``, sorted."""
    found = set()
    for module in denoiser.modules():
        scaling = getattr(module, "scaling", None)
        if isinstance(scaling, dict) and hasattr(module, "merged_adapters"):  # a LoRA layer of peft
            active = () if module.disable_adapters else module.active_adapters
            names = {*active, *module.merged_adapters}  # type: ignore[misc]
            found |= {f"{name}@{scaling[name]:g}" for name in names if name in scaling}
    return tuple(sorted(found))


def digest(value: Any) -> str:
    """SHA-256 of JSON data, in hexadecimal; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _public(config: Any) -> dict[str, Any]:
    return {key: value for key, value in dict(config).items() if not key.startswith("_")}


def _plain(value: Any) -> Any:
    """The same as JSON can keep it: infinity and what JSON does not know in words."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _said(name: str, value: Any) -> str:
    return ", ".join(value) or "none" if name == "adapters" else str(value)


def _config_doubts(wanted: Mapping[str, Any], actual: Mapping[str, Any]) -> Iterator[str]:
    for key in wanted:
        if key in actual and wanted[key] != actual[key]:
            yield f"the scheduler's {key}: {actual[key]} instead of {wanted[key]}"


def _guidance_of(owner: Any) -> float | None:
    """The scale that the running call of a pipeline was given.

    Most pipelines keep it as ``_guidance_scale``; those without (PixArt's, DiT's) have it as an argument only, so it
    is looked up in the frame of the call, once a run.
    """
    kept = getattr(owner, "_guidance_scale", None)
    if isinstance(kept, int | float):
        return float(kept)
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "__call__" and frame.f_locals.get("self") is owner:
            given = frame.f_locals.get("guidance_scale")
            if isinstance(given, int | float):
                return float(given)
        frame = frame.f_back  # type: ignore[assignment]
    return None
