"""One accelerated pipeline: its denoisers, clock, runtimes, plan, and the ledger that undoes them."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from dit_accel.errors import ConfigError, DitAccelError, IrreversibleError, UnsupportedModelError
from dit_accel.families.targets import Target
from dit_accel.plan.fingerprint import compare_models, fingerprint
from dit_accel.plan.plan import AccelerationPlan
from dit_accel.plan.weights import sample_weights
from dit_accel.runtime.clock import Clock
from dit_accel.runtime.denoiser import DenoiserRuntime
from dit_accel.runtime.gate import Gate
from dit_accel.runtime.ledger import RUNTIME, PatchLedger
from dit_accel.runtime.observe import running
from dit_accel.runtime.patch import patches_on
from dit_accel.runtime.users_compile import adopt_users_compile
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

    @property
    def irreversible(self) -> tuple[str, ...]:
        """Names of the passes that cannot be undone."""
        return tuple(
            acceleration.name
            for acceleration, config in self.passes
            if not acceleration.reversible or acceleration.irreversible(config)
        )

    def apply(self) -> None:
        """Apply every pass of the plan in order; when one fails, undo the ones before it and let the error leave."""
        before = self.runtimes
        try:
            if self.passes:
                owner = self.pipe if self.bare_scheduler is None else BareOwner(self.bare_scheduler)
                clock = Clock(owner, self.ledger)
                plan = self.plan if self.certified else replace(self.plan, certificate=None)
                self.runtimes = tuple(
                    DenoiserRuntime(target, clock, self.ledger, plan=plan, strict=self.strict)
                    for target in self.targets
                )
            for acceleration, config in self.passes:
                for runtime in self.runtimes:
                    acceleration.apply(runtime, config)
                    runtime.report(partial(acceleration.effect, runtime, config), by=acceleration.name)
            for runtime in self.runtimes:
                outer = self.pipe if isinstance(self.pipe, nn.Module) else getattr(self.pipe, runtime.name, None)
                adopt_users_compile(runtime, outer)
            self.ledger.set(self.pipe, ATTRIBUTE, self, by=RUNTIME)
        except BaseException:
            self._take_back()
            raise
        for runtime, older in zip(self.runtimes, before, strict=False):
            runtime.remember(older)

    def undo(self) -> None:
        """Take every change back.

        Raises:
            IrreversibleError: A pass of the plan cannot be undone; nothing is.
        """
        self.check_reversible()
        self._take_back()

    def check_reversible(self) -> None:
        """Refuse what would have to undo a pass that cannot be undone.

        Raises:
            IrreversibleError: Names the passes.
        """
        if self.irreversible:
            raise IrreversibleError(
                f"{', '.join(repr(name) for name in self.irreversible)} cannot be undone on a live pipeline: load it "
                "anew to have it without"
            )

    def _take_back(self) -> None:
        for runtime in self.runtimes:
            runtime.release()
        self.ledger.undo()


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
    busy = running([pipe, *(target.denoiser for target in targets)])
    if busy is not None:
        raise DitAccelError(
            f"{type(busy).__name__} is running: a plan cannot be applied or removed inside its own call "
            "(a step callback, say). Do it before the call."
        )
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
    doubts = compare_models(plan.fingerprints, {target.name: fingerprint(target) for target in targets})
    if plan.certificate is None:
        return doubts
    if plan.certificate_fault is not None:
        return [*doubts, f"plan '{plan.name}' is not certified: {plan.certificate_fault}"]
    for target, measured in zip(targets, plan.certificate.weight_samples, strict=False):
        found = sample_weights(target.denoiser)
        if measured is not None and found is not None and not measured.is_of(found):
            words = f"'{target.name}' of this model" if len(targets) > 1 else "this model"
            doubts.append(
                f"the certificate of plan '{plan.name}' does not cover {words}: it was measured on other weights "
                f"({plan.certificate.model}); this is a finetune, or a LoRA is fused"
            )
    return doubts
