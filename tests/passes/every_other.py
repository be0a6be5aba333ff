"""A pass of a user's own: some steps are answered by the last output, and the denoiser is not called."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

from dit_accel.passes.base import Pass
from dit_accel.plan.config import PassConfig
from dit_accel.runtime.call import Call, Effect, Inner, Run
from dit_accel.runtime.denoiser import DenoiserRuntime
from dit_accel.runtime.sockets import ANSWERS
from dit_accel.runtime.trees import Tree

NAME = "every_other"


@dataclass(frozen=True, slots=True, kw_only=True)
class EveryOtherConfig(PassConfig):
    """Call the denoiser at one step in ``n``."""

    type_name: ClassVar[str] = NAME

    n: int = 2


class EveryOther:
    """The wrapper of every call."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.run = -1
        self.last: dict[Hashable, Tree] = {}

    def answers(self, run: Run, branch: Hashable) -> frozenset[int]:
        return frozenset(step for step in range(run.num_steps) if step % self.n)

    def __call__(self, call: Call, inner: Inner) -> Any:
        if call.run.number != self.run:
            self.run, self.last = call.run.number, {}
        if call.step % self.n == 0 or call.branch not in self.last:
            self.last[call.branch] = inner(call)
        return self.last[call.branch]


def apply(runtime: DenoiserRuntime, config: EveryOtherConfig) -> None:
    wrapper = EveryOther(config.n)
    runtime.around(wrapper, answers=wrapper.answers, by=NAME)


def effect(runtime: DenoiserRuntime, config: EveryOtherConfig) -> Effect:
    stats, planned = runtime.stats, 1 - 1 / config.n
    if not stats.calls:
        return Effect(what="denoiser calls saved", planned_frac=planned)
    actual = stats.answered / stats.calls
    return Effect(what="denoiser calls saved", planned_frac=planned, actual_frac=actual, total=stats.calls)


PASS = Pass(
    config=EveryOtherConfig,
    summary="answers all steps but one in n by the last output",
    phase="calls",
    claims=frozenset((ANSWERS,)),
    example=EveryOtherConfig,
    apply=apply,
    effect=effect,
)
