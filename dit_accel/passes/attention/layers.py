"""The attention modules of one denoiser, what answers for each in a call, and the books of what was left out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dit_accel.families.targets import Target
from dit_accel.passes.attention.routing import SCORES, Attend, Route, is_routed, routable, route
from dit_accel.runtime.call import Call, Effect, Inner
from dit_accel.runtime.denoiser import DenoiserRuntime
from dit_accel.runtime.trees import Tree

WHAT = "attention scores not computed"
DEFAULT_STEPS = 20  # what a plan says before the first run

Share = float | Tensor
Shares = Callable[[], Sequence[Share]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One attention module.

    Attributes:
        site_id: Of its site.
        module: The module.
        route: In the place of its attention function.
    """

    site_id: str
    module: nn.Module
    route: Route


class SparseLayers:
    """All self-attention of one denoiser.

    Args:
        runtime: Of the denoiser.
        by: The pass.

    Attributes:
        layers: In execution order.
        dense_because: In a sentence, why this run computes everything.
    """

    def __init__(self, runtime: DenoiserRuntime, *, by: str) -> None:
        runtime.claim(SCORES, by=by)
        self.runtime = runtime
        self.by = by
        self.layers = [
            Layer(site_id=site.info.id, module=module, route=route(module, runtime.ledger, by=by))
            for site, module in routable(runtime.target)
        ]
        self.dense_because: str | None = None
        self._left_out: Share = 0.0
        self._acts = False

    def begin(self, *, length: int | None, dense_because: str | None) -> None:
        """A run begins.

        Args:
            length: Tokens of the sequences that may be sparse; ``None``: any.
            dense_because: Why none of it may be.
        """
        self.dense_because, self._left_out, self._acts = dense_because, 0.0, False
        for layer in self.layers:
            layer.route.reset(length)
        if dense_because is not None:
            self.runtime.warn(dense_because)

    def compute(
        self, call: Call, inner: Inner, attends: Sequence[Attend | None], left_out: Sequence[Share] | Shares
    ) -> Tree:
        """One call of the denoiser.

        Args:
            call: The call.
            inner: Computes it.
            attends: What answers for each layer; ``None``: the model's own attention.
            left_out: Which share of its scores each of them leaves out, or what says so when the call is over; numbers
                on a device are not waited for.
        """
        for layer, attend in zip(self.layers, attends, strict=True):
            layer.route.attend = attend
        if any(attend is not None for attend in attends):
            self._acts = True
            # A row's graph is compiled for calls that leave something out, or for calls that do not.
            call.row = replace(call.row, variant=(call.row.variant, self.by))
        try:
            return inner(call)
        finally:
            shares = left_out() if callable(left_out) else left_out
            for layer, share in zip(self.layers, shares, strict=True):
                layer.route.attend = None
                if layer.route.count():
                    self._left_out += share

    def effect(self, planned_frac: float) -> Effect:
        """What the pass says of itself, given what was planned for the last run."""
        stats = self.runtime.stats
        if not stats.calls:
            return Effect(what=WHAT, planned_frac=planned_frac)
        calls = sum(layer.route.calls for layer in self.layers)
        return Effect(
            what=WHAT,
            planned_frac=planned_frac,
            actual_frac=float(self._left_out) / calls if calls else None,
            total=stats.calls * len(self.layers),
            shortfall=self._shortfall() if planned_frac else None,
        )

    def _shortfall(self) -> str | None:
        """Why layers computed everything although they should not have."""
        if self.dense_because is not None:
            return self.dense_because
        found = {reason: None for layer in self.layers for reason in layer.route.refusals}
        if self._acts and any(not is_routed(layer.module, layer.route) for layer in self.layers):
            found["someone has replaced their processors; apply the plan again after that"] = None
        if not found:
            return None
        return f"'{self.by}': some attention of '{self.runtime.name}' was computed whole: {'; '.join(found)}"


def no_attention(target: Target) -> list[str]:
    """The obstacle that all sparse passes share."""
    if any(True for _ in routable(target)):
        return []
    return ["none of its self-attention goes through a processor that hands q, k and v on"]


def device_of(call: Call) -> torch.device:
    """Where a call is computed: where its latents are."""
    given = (*call.args, *call.kwargs.values())
    return next((each.device for each in given if isinstance(each, Tensor)), torch.device("cpu"))
