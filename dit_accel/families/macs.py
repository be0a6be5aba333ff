"""Multiply-accumulates of a denoiser, with attention, for every site: counted on shapes, without computing."""

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

from dit_accel.families.base import Layout, submodule
from dit_accel.schedules.graph import SiteGraph

# Products of two activations: attention scores and their use. Everything else multiplies a weight.
_ATTENTION_OPS = ("bmm", "baddbmm", "attention")


@dataclass(frozen=True, slots=True, kw_only=True)
class Macs:
    """Multiply-accumulates of one call.

    Attributes:
        total: All of them.
        linear: Those of linear layers and convolutions: without the products QKᵀ and AV. What the ECAD paper reports.
    """

    total: int
    linear: int

    @property
    def attention(self) -> int:
        """Those of products of two activations: QKᵀ and AV, or their linear-attention counterparts."""
        return self.total - self.linear


@dataclass(frozen=True, slots=True, kw_only=True)
class MacsReport:
    """Cost of one denoiser call.

    Attributes:
        total: Multiply-accumulates of the call, batch included.
        linear: Those without attention products.
        sites: Cost of each site, with what lies inside it.
    """

    total: int
    linear: int
    sites: Mapping[str, Macs]

    def without(self, graph: SiteGraph, skipped: Collection[str], *, linear: bool = False) -> int:
        """Cost of the call when the sites ``skipped`` do not run; nested sites are taken off once.

        Args:
            graph: The sites the report was counted for.
            skipped: Ids of the sites that are reused or dropped.
            linear: Leave out attention products.
        """
        gone: set[str] = set()
        cost = self.linear if linear else self.total
        for site in graph:
            if site.parent in gone:
                gone.add(site.id)
            elif site.id in skipped:
                gone.add(site.id)
                macs = self.sites[site.id]
                cost -= macs.linear if linear else macs.total
        return cost

    def by_kind(self, graph: SiteGraph) -> dict[str, int]:
        """Multiply-accumulates of each kind of site without what its inner sites cost; they sum to ``total``."""
        own = {site.id: self.sites[site.id].total for site in graph}
        for site in graph:
            if site.parent is not None:
                own[site.parent] -= self.sites[site.id].total
        kinds: dict[str, int] = {}
        for site in graph:
            kinds[site.kind] = kinds.get(site.kind, 0) + own[site.id]
        return {kind: macs for kind, macs in kinds.items() if macs}


def count_macs(model: nn.Module, layout: Layout, inputs: Mapping[str, Any]) -> MacsReport:
    """Count one call of ``model(**inputs)``.

    Nothing is computed: a model on the meta device runs as it is, any other one on fake tensors. Only a model that
    looks at values (``.tolist()`` of a mask) is run for real. Elementwise operations, norms and the softmax are not
    multiply-accumulates and are not counted.

    Args:
        model: The denoiser, without accelerating passes.
        layout: Its sites.
        inputs: Keyword arguments of one call, such as ``Family.sample_inputs`` makes; batch included.
    """
    parameter = next(model.parameters(), None)
    if parameter is not None and parameter.device.type == "meta":
        return _count(model, layout, inputs)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        with mode:
            fake = tree_map(lambda x: mode.from_tensor(x) if isinstance(x, torch.Tensor) else x, dict(inputs))
            return _count(model, layout, fake)
    except (DataDependentOutputException, DynamicOutputShapeException):
        return _count(model, layout, inputs)


def meta_twin(model: nn.Module) -> nn.Module | None:
    """A model of the same config without weights, hooks, adapters or compiled code; ``None`` if it has no config."""
    config, from_config = getattr(model, "config", None), getattr(type(model), "from_config", None)
    if config is None or from_config is None:
        return None
    with torch.device("meta"):
        twin = from_config(config)
    # torch.Tensor([...]) heeds no device context: what a class makes that way is on the CPU.
    return twin.eval().to("meta") if isinstance(twin, nn.Module) else None


def _count(model: nn.Module, layout: Layout, inputs: Mapping[str, Any]) -> MacsReport:
    counter = FlopCounterMode(display=False)
    sites = {site.info.id: Macs(total=0, linear=0) for site in layout.sites}
    # The math back end multiplies matrices where fused kernels hide what they do.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter, _meters(model, layout, counter, sites):
        model(**inputs)
    whole = _running(counter)
    return MacsReport(total=whole.total, linear=whole.linear, sites=sites)


@contextlib.contextmanager
def _meters(model: nn.Module, layout: Layout, counter: FlopCounterMode, sites: dict[str, Macs]) -> Iterator[None]:
    """Hooks that charge each site with what the counter gains while the site runs."""
    handles = []
    for site in layout.sites:
        module = submodule(model, site.path)
        if module is None:
            continue
        started: list[Macs] = []

        def enter(*_: Any, started: list[Macs] = started) -> None:
            started.append(_running(counter))

        def leave(*_: Any, started: list[Macs] = started, name: str = site.info.id) -> None:
            before, now, known = started.pop(), _running(counter), sites[name]
            sites[name] = Macs(
                total=known.total + now.total - before.total, linear=known.linear + now.linear - before.linear
            )

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _running(counter: FlopCounterMode) -> Macs:
    """What was counted so far; the counter counts a multiply-accumulate as two operations."""
    total = attention = 0
    for operator, flops in counter.get_flop_counts().get("Global", {}).items():
        total += flops // 2
        if any(word in str(operator) for word in _ATTENTION_OPS):
            attention += flops // 2
    return Macs(total=total, linear=total - attention)
