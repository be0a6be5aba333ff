"""How many blocks each attention layer should get: what leaving them out costs is measured, and a budget divided.

As for caching, sensitivity is measured on the denoiser's output and weighed by how much of an error at that step is
left at the end of a run (:mod:`.gains`); then a dynamic programme divides the budget. Errors of layers are taken to
add up, which small ones nearly do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dit_accel.calibration.attention import EVERY_ORDER, best_orders, kept_together, paro_of, ranked_sums
from dit_accel.calibration.attention_record import BY, AttentionRecord, sampled_steps, watched_runtime
from dit_accel.errors import ConfigError
from dit_accel.passes.attention.paro import PermutedAttention
from dit_accel.passes.attention.paro_config import PAROAttentionConfig
from dit_accel.passes.attention.routing import Route, routable, route
from dit_accel.runtime.call import Call, Inner
from dit_accel.runtime.trees import leaves

LADDER = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
"""Densities that a layer may get; 1 is dense."""
UNITS = 1000
EXACT = 1e-6  # of a unit: what rounding has taken from a whole number is not rounded down


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """What it costs to compute only a part of one layer's scores.

    Attributes:
        ladder: D densities, ascending.
        errors: float64 [P, L, D]: squared error of the denoiser's output by its square, that layer alone being sparse.
    """

    ladder: tuple[float, ...]
    errors: np.ndarray[Any, Any]


def measure_sensitivity(
    pipe: Any,
    run: Callable[[], object],
    record: AttentionRecord,
    *,
    ladder: Sequence[float] = LADDER,
    orders: Sequence[int] = EVERY_ORDER,
    on_progress: Callable[[float], None] | None = None,
) -> Sensitivity:
    """Watch a plain run, and at one step of each part compute the denoiser's output anew for each layer and density.

    The run itself goes on with the whole output. That takes L * (D - 1) further calls of the denoiser at P steps.

    Args:
        pipe: A pipeline, or a bare denoiser.
        run: Draws with it.
        record: Of its attention; parts and layers are its own.
        ladder: The densities; the last one is 1.
        orders: Which of the six orders a head may be given.
        on_progress: Told which share is done.

    Raises:
        ConfigError: The ladder does not end with 1.
    """
    ladder = tuple(sorted(set(ladder)))
    if not ladder or ladder[0] <= 0 or ladder[-1] != 1:
        raise ConfigError(f"'ladder' must be densities up to 1, got {list(ladder)}")
    plans = [with_budget(record, np.full(record.sums.shape[:2], density), orders=orders) for density in ladder[:-1]]
    with watched_runtime(pipe) as runtime:
        prober = _Prober(runtime, record, plans, on_progress)
        run()
    return Sensitivity(ladder=ladder, errors=prober.errors())


def divide(
    sensitivity: Sensitivity, density: float, *, gains: Sequence[float] = (), sparse_steps: Sequence[int] = ()
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The densities [P, L] whose errors add up to the least at a mean density: a knapsack, solved by its table.

    Args:
        sensitivity: Of the layers.
        density: At most, on the mean of layers and of the steps that are not dense.
        gains: How much of an error in each part is left at the end; empty: the same for all.
        sparse_steps: How many steps of each part are not dense, of one part at least; empty: the same for all. What a
            part without any is given is never used, and is what the first one with some is given.

    Raises:
        ConfigError: The density is below the ladder's lowest.
    """
    ladder = np.array(sensitivity.ladder)
    parts, layers, _ = sensitivity.errors.shape
    steps = np.array(sparse_steps if len(sparse_steps) else [1] * parts)
    shares = steps / steps.max()
    weights = (shares * np.square(np.array(gains if len(gains) else [1.0] * parts)))[:, None, None]
    errors = (sensitivity.errors * weights).reshape(parts * layers, -1)
    # Rounded down, as the budget is: the lowest density fits whenever it is asked for.
    costs = np.floor(np.outer(shares.repeat(layers), ladder) * UNITS + EXACT).astype(int)
    budget = int(density * UNITS * layers * shares.sum() + EXACT)
    if budget < costs[:, 0].sum():
        raise ConfigError(f"a density of {density:g} is below the lowest that layers can be given, {ladder[0]:g}")
    best = np.zeros(budget + 1)
    taken = np.zeros((len(errors), budget + 1), dtype=np.int8)
    for item, row in enumerate(errors):
        totals = np.full((len(ladder), budget + 1), np.inf)
        for choice, (cost, error) in enumerate(zip(costs[item], row, strict=True)):
            totals[choice, cost:] = best[: max(0, budget + 1 - cost)] + error
        taken[item] = totals.argmin(0)
        best = totals.min(0)
    found, left = np.zeros(len(errors)), int(best.argmin())  # the least error, and of equal ones the cheapest
    for item in reversed(range(len(errors))):
        found[item] = ladder[taken[item, left]]
        left -= costs[item, taken[item, left]]
    given = found.reshape(parts, layers)
    given[steps == 0] = given[steps.nonzero()[0][0]]
    return given


def with_budget(
    record: AttentionRecord,
    densities: np.ndarray[Any, Any],
    *,
    orders: Sequence[int] = EVERY_ORDER,
    dense_steps_frac: float = 0.0,
) -> PAROAttentionConfig:
    """The plan in which each layer of each part has a density of its own; its heads share what it has.

    Args:
        record: Of the model.
        densities: [P, L], in (0, 1].
        orders: Which of the six orders a head may be given; chosen at the mean density.
        dense_steps_frac: See :class:`~dit_accel.passes.attention.rules.DenseRules`.
    """
    ranked = ranked_sums(record, orders)
    chosen, places = best_orders(record, orders, float(np.mean(densities)))
    ordered = ranked.gather(2, places).squeeze(2)  # [P, L, H, M, M]
    kept = torch.stack(
        [
            torch.cat([kept_together(heads[None], float(share)) for heads, share in zip(layers, row, strict=True)])
            for layers, row in zip(ordered, densities, strict=True)
        ]
    )
    return paro_of(record, chosen, kept, dense_steps_frac=dense_steps_frac)


class _Prober:
    """At the sampled steps, after the whole call, the same call with one layer sparse."""

    def __init__(
        self,
        runtime: Any,
        record: AttentionRecord,
        plans: Sequence[PAROAttentionConfig],
        on_progress: Callable[[float], None] | None,
    ) -> None:
        self.record, self.plans, self.on_progress = record, plans, on_progress
        self.routes: dict[str, Route] = {
            site.info.id: route(module, runtime.ledger, by=BY)
            for site, module in routable(runtime.target)
            if site.info.id in record.layers
        }
        self.sums = np.zeros((len(record.sums), len(record.layers), len(plans)))
        self.wholes = np.zeros(len(record.sums))
        self.tried = 0
        runtime.around(self, by=BY)

    def __call__(self, call: Call, inner: Inner) -> Any:
        part = sampled_steps(call.run.num_steps, len(self.record.sums), 1).get(call.step)
        whole = inner(call)
        if part is None:
            return whole
        reference = _output(whole)
        self.wholes[part] += float(reference.square().sum())
        for layer, name in enumerate(self.record.layers):
            for place, plan in enumerate(self.plans):
                each = self.routes[name]
                each.length = self.record.layout.length
                each.attend = PermutedAttention.of(plan, part, layer, reference.device)
                try:
                    off = _output(inner(call)) - reference
                finally:
                    each.attend = None
                self.sums[part, layer, place] += float(off.square().sum())
        self.tried += 1
        if self.on_progress is not None:
            self.on_progress(min(1.0, (part + 1) / len(self.record.sums)))
        return whole

    def errors(self) -> np.ndarray[Any, Any]:
        if not self.wholes.all():
            raise ConfigError("no step fell into some part of the run: fewer parts, or more steps")
        found = self.sums / self.wholes[:, None, None]
        if not np.isfinite(found).all():
            raise ConfigError(
                "the denoiser's outputs are not finite (NaN or infinity): nothing can be compared with them"
            )
        return np.concatenate([found, np.zeros((*found.shape[:2], 1))], -1)


def _output(tree: Any) -> torch.Tensor:
    return next(iter(leaves(tree))).detach().float()
