"""The verbs: accelerate a pipeline, look at what was done, and take it back."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from dit_accel.errors import ConfigError, PlanMismatchError, did_you_mean
from dit_accel.families.targets import Target, find_targets
from dit_accel.plan.config import PassConfig
from dit_accel.plan.plan import AccelerationPlan
from dit_accel.runtime.observe import warn_user
from dit_accel.session.as_scheduler import scheduler_of_plan
from dit_accel.session.limits import Limits, choose_plan
from dit_accel.session.own_plans import Folders
from dit_accel.session.presets import PRESETS, resolve_preset
from dit_accel.session.session import Session, check_free, check_plan, session_of
from dit_accel.session.summary import Summary, summarize
from dit_accel.session.technique_presets import RECORDED

logger = logging.getLogger("dit_accel")

P = TypeVar("P")
PlanLike = str | Path | AccelerationPlan | PassConfig | Sequence[PassConfig]
DEFAULT_PRESET = "balanced"


def accelerate_pipeline(
    pipe: P,
    plan: PlanLike | None = None,
    *,
    max_lpips: float | None = None,
    min_speedup: float | None = None,
    plans: Folders | None = None,
    scheduler: Any = None,
    strict: bool = False,
) -> P:
    """Make a diffusers pipeline faster, in place, and return the same object.

    Args:
        pipe: A pipeline with a transformer or UNet denoiser, or such a denoiser itself.
        plan: A preset (``"lossless"``, ``"light"``, ``"balanced"``, ``"fast"``, ``"turbo"``, ``"extreme"``),
            an :class:`AccelerationPlan`, a folder, file or hub id with one, or pass configs. Default: ``"balanced"``,
            or what the limits choose.
        max_lpips: Instead of a plan: the fastest one that ships for this model, or is your own, and is certified with
            a mean LPIPS (ST-LPIPS where that was measured) of at most this.
        min_speedup: Instead of a plan: the most faithful one that is certified to be so many times faster, on the
            device that its certificate names; with ``max_lpips`` the fastest within both. A model that there is no
            plan for gets the one that theory gives, which is certified for none.
        plans: Folders that limits choose from as well, with plans of your own in or below them; ``None``: those that
            the variable ``DIT_ACCEL_PLANS`` names.
        scheduler: The scheduler that drives a bare denoiser; not for pipelines.
        strict: Refuse (:class:`PlanMismatchError`) where otherwise a warning is given: other step count, scheduler,
            size, guidance or LoRA than the plan was made or certified for, or a run that reuses nothing.

    Returns:
        ``pipe``. Applying again replaces what was applied; :func:`remove_acceleration` undoes it exactly.

    Raises:
        ConfigError: The plan is not valid, is given together with limits, or none is certified within the limits;
            the error says what is.
        UnsupportedModelError: The pipeline has no denoiser that can be accelerated.
        PlanMismatchError: The plan is for another model.
        IrreversibleError: What is applied already cannot be undone.
    """
    wanted = _wanted(plan, max_lpips, min_speedup, plans)
    _replace(pipe, wanted, plans=plans, scheduler=scheduler, strict=strict, for_a_while=False)
    return pipe


def _wanted(
    plan: PlanLike | None, max_lpips: float | None, min_speedup: float | None, plans: Folders | None
) -> PlanLike | Limits:
    limits = Limits(max_lpips=max_lpips, min_speedup=min_speedup)
    if not limits.given:
        if plans is not None:
            raise ConfigError("'plans' is what limits choose from: give 'max_lpips' or 'min_speedup' too")
        return DEFAULT_PRESET if plan is None else plan
    if plan is not None:
        raise ConfigError(f"a plan and limits ({limits}) exclude each other: the limits choose the plan")
    return limits


def _replace(
    pipe: Any, plan: PlanLike | Limits, *, plans: Folders | None, scheduler: Any, strict: bool, for_a_while: bool
) -> None:
    before = session_of(pipe)
    if before is not None:
        check_free(pipe, before.targets)
        before.undo()  # a plan is checked against the plain model, not against what another one made of it
    try:
        session = _prepared(pipe, plan, plans=plans, scheduler=scheduler, strict=strict)
        if for_a_while:
            session.check_reversible()
        session.apply()
    except BaseException:
        if before is not None:
            before.apply()
        raise
    if before is not None:
        logger.info("replaced plan '%s' by '%s'", before.plan.name, session.plan.name)


def _prepared(pipe: Any, plan: PlanLike | Limits, *, plans: Folders | None, scheduler: Any, strict: bool) -> Session:
    """Everything that can be refused before the pipeline is touched."""
    targets = find_targets(pipe)
    check_free(pipe, targets)
    _check_scheduler(pipe, scheduler)
    if isinstance(plan, Limits):
        resolved = choose_plan(plan, targets, model=_source_of(pipe), plans=plans)
        logger.info("chose plan '%s' for %s", resolved.name, plan)
    else:
        resolved = resolve_plan(plan, targets)
    doubts = check_plan(resolved, targets)
    for doubt in doubts:
        if strict:
            raise PlanMismatchError(doubt)
        warn_user(doubt)
    return Session(pipe, targets, resolved, scheduler=scheduler, strict=strict, doubts=doubts)


def remove_acceleration(pipe: P) -> P:
    """Undo :func:`accelerate_pipeline` exactly: same attributes, same ``state_dict`` keys, bit-equal output.

    Raises:
        IrreversibleError: A pass that is applied cannot be undone; nothing is.
    """
    session = session_of(pipe)
    if session is None:
        warn_user("remove_acceleration: this pipeline is not accelerated")
        return pipe
    check_free(pipe, session.targets)
    session.undo()
    return pipe


@contextmanager
def accelerated(
    pipe: P,
    plan: PlanLike | None = None,
    *,
    max_lpips: float | None = None,
    min_speedup: float | None = None,
    plans: Folders | None = None,
    scheduler: Any = None,
    strict: bool = False,
) -> Iterator[P]:
    """Accelerate within a ``with`` block; what was applied before, if anything, is back afterwards.

    The arguments are those of :func:`accelerate_pipeline`.

    Raises:
        IrreversibleError: A pass of the plan cannot be undone; the pipeline is left as it was.
    """
    wanted = _wanted(plan, max_lpips, min_speedup, plans)
    before = session_of(pipe)
    _replace(pipe, wanted, plans=plans, scheduler=scheduler, strict=strict, for_a_while=True)
    try:
        yield pipe
    finally:
        remove_acceleration(pipe)
        if before is not None:
            before.apply()


def is_accelerated(pipe: Any) -> bool:
    """Whether :func:`accelerate_pipeline` is in force on this object."""
    return session_of(pipe) is not None


def summary(pipe: Any) -> Summary:
    """What is applied, and, after a run, what was planned and what really happened. Print it."""
    session = session_of(pipe)
    if session is None:
        raise ConfigError("this pipeline is not accelerated; there is nothing to sum up")
    return summarize(session)


def to_scheduler(plan: PlanLike, scheduler: Any) -> Any:
    """A trajectory plan as a scheduler: the loop visits the computed evaluations only, and no hook is needed.

    Equal to the plan inside the loop up to rounding, wherever a pipeline's guidance is linear in its branches.

    Args:
        plan: A trajectory plan, or a path to one.
        scheduler: The stock scheduler that it was fitted to; it is copied.

    Raises:
        ConfigError: The plan has other passes, which have no such form.
        UnsupportedModelError: The scheduler adds new noise at every step.
    """
    return scheduler_of_plan(resolve_plan(plan, ()), scheduler)


def resolve_plan(plan: PlanLike, targets: Sequence[Target]) -> AccelerationPlan:
    """Turn anything that :func:`accelerate_pipeline` takes into a plan for these denoisers.

    Raises:
        ConfigError: It is none of the things that can be taken.
    """
    if isinstance(plan, AccelerationPlan):
        return plan
    if isinstance(plan, PassConfig):
        return AccelerationPlan(passes=(plan,))
    if isinstance(plan, Path) or (isinstance(plan, str) and plan not in PRESETS and _looks_like_source(plan)):
        return AccelerationPlan.from_pretrained(plan)
    if isinstance(plan, str):
        if plan in RECORDED:
            raise ConfigError(
                f"'{plan}' is found on recorded runs of a model, so it is no preset; make a plan with "
                f"dit_accel.calibration.techniques.technique_plan(pipe, '{plan}', run) and give that"
            )
        if plan not in PRESETS:
            raise ConfigError(
                f"unknown preset '{plan}'.{did_you_mean(plan, PRESETS)} Presets: {', '.join(PRESETS)}; "
                "or give a plan, a folder or file with one, or a hub id 'user/name'."
            )
        return resolve_preset(plan, targets)
    if isinstance(plan, Sequence):
        configs = tuple(item for item in plan if isinstance(item, PassConfig))
        if len(configs) == len(plan):
            return AccelerationPlan(passes=configs)
    found = type(plan).__name__
    if isinstance(plan, Sequence):
        found += " of " + ", ".join(dict.fromkeys(type(item).__name__ for item in plan))
    raise ConfigError(f"a plan is a preset name, a plan, a path or pass configs; got {found}")


def _looks_like_source(text: str) -> bool:
    return text != "" and ("/" in text or text.endswith(".json") or Path(text).exists())


def _source_of(pipe: Any) -> str:
    """What a pipeline was loaded from, for commands in messages."""
    return str(getattr(pipe, "name_or_path", None) or "MODEL")


def _check_scheduler(pipe: Any, scheduler: Any) -> None:
    has_own = hasattr(pipe, "scheduler")
    if has_own and scheduler is not None:
        raise ConfigError("'scheduler' is for bare denoisers; this pipeline has its own")
    if not has_own and scheduler is None:
        raise ConfigError("a bare denoiser needs the scheduler that drives it: accelerate_pipeline(..., scheduler=s)")
