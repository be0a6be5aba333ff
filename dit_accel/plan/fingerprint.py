"""Which model a plan is for."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dit_accel.errors import PlanMismatchError

if TYPE_CHECKING:  # reports and certificates are read without torch
    from dit_accel.families.targets import Target


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


def compare_models(wanted: Sequence[Fingerprint], found: Mapping[str, Fingerprint]) -> list[str]:
    """Doubts about using a plan for models ``wanted`` on those of a pipeline, denoiser by denoiser.

    Args:
        wanted: Of the plan, in the order in which a pipeline uses its denoisers; empty: it fits any.
        found: Of the pipeline, by the names of its denoisers, in the same order.

    Raises:
        PlanMismatchError: It is for other denoisers.
    """
    if not wanted:
        return []
    if len(wanted) > len(found):
        raise PlanMismatchError(f"the plan is for {len(wanted)} denoisers, this pipeline has {len(found)}")
    doubts = []
    for (name, model), own in zip(found.items(), wanted, strict=False):
        words = f"{name}: " if len(found) > 1 else ""
        try:
            doubts += [words + doubt for doubt in own.compare(model)]
        except PlanMismatchError as error:
            raise PlanMismatchError(words + str(error)) from error
    more = list(found)[len(wanted) :]
    if more:
        doubts.append(f"the plan says nothing of '{more[0]}', a second denoiser of this pipeline")
    return doubts


def fingerprint(target: "Target") -> Fingerprint:
    """The fingerprint of a live denoiser."""
    return Fingerprint(
        model_class=type(target.denoiser).__name__,
        sites=digest(sorted(site.id for site in target.layout.graph))[:16],
        config=digest(public_settings(getattr(target.denoiser, "config", {})))[:16],
    )


def digest(value: Any) -> str:
    """SHA-256 of JSON data, in hexadecimal; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def scheduler_digest(scheduler: Any) -> str:
    """Digest of a scheduler's class and settings, the same in every process.

    diffusers lists the settings that a file did not name in the order of a set, which is another one in each process.
    """
    config = {key: value for key, value in scheduler.config.items() if key != "_use_default_values"}
    return digest({type(scheduler).__name__: str(type(scheduler.config)(config))})


def public_settings(config: Any) -> dict[str, Any]:
    """A diffusers config without its private entries."""
    return {key: value for key, value in dict(config).items() if not key.startswith("_")}
