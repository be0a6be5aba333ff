"""One accelerated pipeline: its denoisers, clock, runtimes, plan, and the ledger that undoes them."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dit_accel.errors import ConfigError, DitAccelError, UnsupportedModelError
from dit_accel.families.targets import Target
from dit_accel.plan.fingerprint import fingerprint
from dit_accel.plan.plan import AccelerationPlan
from dit_accel.plan.weights import sample_weights
from dit_accel.runtime.clock import Clock
from dit_accel.runtime.denoiser import DenoiserRuntime, Gate
from dit_accel.runtime.ledger import PatchLedger, patches_on
from dit_accel.runtime.rows import adopt_users_compile
from dit_accel.session.planner import order_passes

ATTRIBUTE = "_dit_accel"


class BareOwner:
    """Stands in for a pipeline when only a denoiser and its scheduler are given."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler


class Session:
    """What ``accelerate_pipeline`` leaves on a pipeline.

    Args:
        pipe: A diffusers pipeline, or a bare denoiser.
        targets: Its denoisers.
        plan: What to apply.
        scheduler: The scheduler of a bare denoiser.
        strict: Turn every warning into an error.
        doubts: What :func:`check_plan` found.

    Raises:
        ConfigError: The passes of the plan cannot be combined.
        UnsupportedModelError: One of them cannot act on one of the targets.
    """

    def __init__(
        self,
        pipe: Any,
        targets: tuple[Target, ...],
        plan: AccelerationPlan,
        *,
        scheduler: Any,
        strict: bool,
        doubts: Sequence[str] = (),
    ) -> None:
        self.pipe = pipe
        self.targets = targets
        self.plan = plan
        self.strict = strict
        self.doubts = tuple(doubts)
        self.certified = plan.is_certified and not self.doubts
        self.bare_scheduler = scheduler
        self.passes = order_passes(plan.passes, targets)
        self.ledger = PatchLedger()
        self.runtimes: tuple[DenoiserRuntime, ...] = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        # A copy of an accelerated object is a plain one: it gets none of our wrappers, so no session either.
        return None

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(None), ())

    def apply(self) -> None:
        """Apply every pass of the plan in order; when one fails, undo the ones before it and let the error leave."""
        try:
            if self.passes:
                owner = self.pipe if self.bare_scheduler is None else BareOwner(self.bare_scheduler)
                clock = Clock(owner, self.ledger)
                plan = self.plan if self.certified else replace(self.plan, certificate=None)
                self.runtimes = tuple(
                    DenoiserRuntime(
                        t.name, t.denoiser, t.family, t.layout, clock, self.ledger, plan=plan, strict=self.strict
                    )
                    for t in self.targets
                )
            for acceleration, config in self.passes:
                acceleration.apply(self, config)
            if self.runtimes:
                adopt_users_compile(self)
            self.ledger.set(self.pipe, ATTRIBUTE, self)
        except BaseException:
            self.undo()
            raise

    def undo(self) -> None:
        """Take every change back."""
        for runtime in self.runtimes:
            runtime.release()
        self.ledger.undo()
        self.runtimes = ()


def session_of(pipe: Any) -> Session | None:
    """The session on a pipeline, if it is accelerated."""
    session = vars(pipe).get(ATTRIBUTE) if hasattr(pipe, "__dict__") else None
    return session if isinstance(session, Session) else None


def check_free(pipe: Any, targets: tuple[Target, ...]) -> None:
    """Refuse to touch what is running, or what another pipeline has accelerated.

    Raises:
        DitAccelError: The pipeline or its denoiser is in the middle of a call.
        ConfigError: A denoiser is shared with another accelerated pipeline.
    """
    frame = sys._getframe(1)
    busy = [pipe, *(target.denoiser for target in targets)]
    while frame is not None:
        subject = frame.f_locals.get("self")
        if frame.f_code.co_name in ("__call__", "forward") and any(subject is item for item in busy):
            raise DitAccelError(
                f"{type(subject).__name__} is running: a plan cannot be applied or removed inside its own call "
                "(a step callback, say). Do it before the call."
            )
        frame = frame.f_back  # type: ignore[assignment]
    own = session_of(pipe)
    for target in targets:
        gates = [patch for patch in patches_on(target.denoiser, "forward") if isinstance(patch, Gate)]
        if any(own is None or gate.runtime not in own.runtimes for gate in gates):
            raise ConfigError(
                f"'{target.name}' is already accelerated through another pipeline that shares it; "
                "call remove_acceleration on that one first"
            )


def check_plan(plan: AccelerationPlan, targets: tuple[Target, ...]) -> list[str]:
    """What a plan was made for and does not find here: doubts to be warned of.

    Raises:
        PlanMismatchError: It was made for another kind of model.
        UnsupportedModelError: There is nothing to accelerate.
    """
    if not targets:
        raise UnsupportedModelError("there is no denoiser to accelerate")
    doubts = [] if plan.fingerprint is None else plan.fingerprint.compare(fingerprint(targets[0]))
    if plan.certificate is None:
        return doubts
    if plan.certificate_fault is not None:
        return [*doubts, f"plan '{plan.name}' is not certified: {plan.certificate_fault}"]
    measured, found = plan.certificate.weights, sample_weights(targets[0].denoiser)
    if measured is not None and found is not None and not measured.is_of(found):
        doubts.append(
            f"the certificate of plan '{plan.name}' does not cover this model: it was measured on other weights "
            f"({plan.certificate.model}); this is a finetune, or a LoRA is fused"
        )
    return doubts
