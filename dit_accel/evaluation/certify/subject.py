"""What a certification measures: the plan, the pipeline, the settings, and prompts that nothing was tuned on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dit_accel.api import PlanLike, resolve_plan
from dit_accel.errors import ConfigError, PlanMismatchError
from dit_accel.families.targets import Target, find_targets
from dit_accel.pipelines.generation import GenerationSettings, makes_video, steps_of
from dit_accel.plan.fingerprint import compare_models, fingerprint
from dit_accel.plan.plan import AccelerationPlan
from dit_accel.prompts import PROMPT_KINDS, load_prompts

BATCH_IMAGES, BATCH_VIDEOS = 4, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifySubject:
    """What is certified, on what.

    Attributes:
        pipe: The plain pipeline.
        targets: Its denoisers.
        plan: Without certificate, with the model's fingerprint.
        model: What the pipeline was loaded from.
        settings: Of the plain run.
        samples: Prompt and seed of each image or video.
        shipped: Whether the prompts are the shipped ``certify`` list, or a part of it.
        kind: ``"image"`` or ``"video"``.
        batch_size: Images or videos a call.
    """

    pipe: Any
    targets: tuple[Target, ...]
    plan: AccelerationPlan
    model: str
    settings: GenerationSettings
    samples: tuple[tuple[str, int], ...]
    shipped: bool
    kind: str
    batch_size: int

    @property
    def batches(self) -> tuple[tuple[tuple[str, int], ...], ...]:
        """The samples, batch by batch."""
        size = self.batch_size
        return tuple(self.samples[start : start + size] for start in range(0, len(self.samples), size))


def choose_subject(
    pipe: Any,
    plan: PlanLike,
    model: str,
    settings: GenerationSettings,
    prompts: Sequence[str] | None,
    num_prompts: int | None,
    *,
    seed: int,
    batch_size: int | None,
) -> CertifySubject:
    """Resolve what a caller of ``certify`` asks for; the arguments are that function's.

    Raises:
        ConfigError: No prompts, or prompts that plans are tuned on.
        PlanMismatchError: The plan is for another model.
    """
    targets = find_targets(pipe)
    resolved = resolve_plan(plan, targets)
    kind = "video" if makes_video(pipe) else "image"
    chosen = tuple(load_prompts("certify", kind).prompts if prompts is None else prompts)[:num_prompts]
    _check_held_out(chosen)
    batch = batch_size or (BATCH_VIDEOS if kind == "video" else BATCH_IMAGES)
    found = {target.name: fingerprint(target) for target in targets}
    doubts = compare_models(resolved.fingerprints, found)
    if doubts:
        raise PlanMismatchError(f"the plan cannot be certified here: {doubts[0]}")
    return CertifySubject(
        pipe=pipe,
        targets=targets,
        plan=replace(resolved, certificate=None, fingerprints=tuple(found.values())),
        model=model,
        settings=replace(settings, num_inference_steps=steps_of(pipe, settings)),
        samples=tuple((prompt, seed + number) for number, prompt in enumerate(chosen)),
        shipped=prompts is None,
        kind=kind,
        batch_size=min(batch, len(chosen)),
    )


def _check_held_out(prompts: Sequence[str]) -> None:
    if not prompts:
        raise ConfigError("there are no prompts to certify on")
    searched: set[str] = set()
    for kind in PROMPT_KINDS:
        try:
            searched |= {_plain_text(prompt) for prompt in load_prompts("search", kind).prompts}
        except ConfigError:  # none of this kind ships
            continue
    tuned = [prompt for prompt in prompts if _plain_text(prompt) in searched]
    if tuned:
        raise ConfigError(
            f"{len(tuned)} of {len(prompts)} prompts are of the list 'search', on which plans are tuned, e.g. "
            f"'{tuned[0]}'; a certificate takes prompts that were held out"
        )


def _plain_text(prompt: str) -> str:
    return " ".join(prompt.casefold().split())
