"""Measures the table that plans are priced with: how much time the reuse of each kind of site saves on this device.

Sites that are alike (kind, class and size of module, shape of output) share one entry. In the runs that are timed
everything is computed at every second evaluation, and at those between them the sites of one entry alone are reused.
What that saves against the evaluations before and after is the entry, so that slow drift of the machine cancels out,
and all that goes with a reuse is in it: the norm in front that does not run, the modulation of fewer tokens, our own
wrapper. At some evaluations all leaves are reused together: they save less than the sum, and how much less is noted.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch

from dit_accel.api import accelerated
from dit_accel.calibration.latency import Deviation, Pricing, SiteTimes
from dit_accel.calibration.site_samples import Sample, lent, solved, typical
from dit_accel.errors import ConfigError
from dit_accel.evaluation.compare.cost import call_macs
from dit_accel.families.base import submodule
from dit_accel.families.macs import MacsReport
from dit_accel.families.targets import Target, find_targets
from dit_accel.passes.static_cache import StaticCacheConfig
from dit_accel.passes.trajectory.apply import TrajectoryConfig
from dit_accel.plan.config import PassConfig
from dit_accel.runtime.call import Call, Inner
from dit_accel.runtime.trees import leaves
from dit_accel.schedules import GeneratorSpec, Schedule
from dit_accel.schedules.generators import LEAF_KINDS
from dit_accel.session.session import session_of

BY = "calibration"
ROUNDS = 3  # samples of each entry
Clock = Callable[[], float]


def now() -> float:
    """Seconds, from an idle device."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


@dataclass(slots=True)
class _Ear:
    """Times every denoiser call of a run, and remembers what the first one of each denoiser was given."""

    clock: Clock
    samples: list[Sample] = field(default_factory=list)
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    run_s: float = 0.0

    def timed(self, pipe: Any, passes: Sequence[PassConfig], run: Callable[[], object]) -> "_Ear":
        """Run once under a plan."""
        with accelerated(pipe, list(passes)):
            session = session_of(pipe)
            assert session is not None
            for runtime in session.runtimes:
                runtime.around(self._around(runtime.name, runtime.inputs.by_name), order=-100, by=BY)
            began = self.clock()
            run()
            self.run_s = self.clock() - began
        return self

    def _around(self, name: str, by_name: Callable[..., dict[str, Any]]) -> Callable[[Call, Inner], Any]:
        def around(call: Call, inner: Inner) -> Any:
            self.inputs.setdefault(name, by_name(call.args, call.kwargs))
            began = self.clock()
            output = inner(call)
            taken = self.clock() - began
            self.samples.append(Sample(denoiser=name, step=call.step, actions=call.row.actions, seconds=taken))
            return output

        return around


def measure_site_times(
    pipe: Any, run: Callable[[], object], *, rounds: int = ROUNDS, macs: bool = True, clock: Clock = now
) -> Pricing:
    """Time the sites of a pipeline in runs of the shape that plans are to be priced for.

    Args:
        pipe: The pipeline. What is applied to it is taken off meanwhile.
        run: Draws with it, the same shape each time.
        rounds: Samples of each entry.
        macs: Also count multiply-accumulates.
        clock: Seconds.

    Raises:
        ConfigError: The runs have fewer than four evaluations.
    """
    nothing = StaticCacheConfig(schedule=GeneratorSpec("custom", reuse={}), invariants=False)
    targets = {target.name: target for target in find_targets(pipe)}
    shapes = _shapes(targets.values(), lambda: _Ear(clock).timed(pipe, [nothing], run))  # a warm-up as well
    plain = _Ear(clock).timed(pipe, [nothing], run)
    steps = 1 + max((sample.step for sample in plain.samples), default=-1)
    if steps < 4:
        raise ConfigError(f"site times are measured in runs of at least four denoiser evaluations, not of {steps}")
    owner = {sample.step: sample.denoiser for sample in plain.samples}
    targets = {name: target for name, target in targets.items() if name in owner.values()}
    entries = _entries(shapes)
    leaves_of_all = tuple(site for site, shape in shapes.items() if shape[0] in LEAF_KINDS)
    slots = list(range(2, steps, 2))
    wanted = [entry for _ in range(rounds) for entry in (*entries, leaves_of_all)]
    samples: list[list[Sample]] = []
    outside = [plain.run_s - sum(sample.seconds for sample in plain.samples)]
    place = 0
    while place < len(wanted):
        schedule = _schedule(steps, {step: wanted[(place + k) % len(wanted)] for k, step in enumerate(slots)})
        ear = _Ear(clock).timed(pipe, [StaticCacheConfig(schedule=schedule, invariants=False)], run)
        samples.append(ear.samples)
        outside.append(ear.run_s - sum(sample.seconds for sample in ear.samples))
        place += len(slots)
    trajectory = TrajectoryConfig(computed=tuple(step % 2 == 0 for step in range(steps)))
    begins = {name: min(step for step in owner if owner[step] == name) for name in targets}
    halved = _Ear(clock).timed(pipe, [trajectory], run).samples
    answered = [sample for sample in halved if sample.step % 2 and sample.step != begins[sample.denoiser]]
    denoisers = {
        name: solved(target, entries, [plain.samples, *samples], answered) for name, target in targets.items()
    }
    times = SiteTimes(
        device=str(next(next(iter(targets.values())).denoiser.parameters()).device),
        evaluations=tuple(owner[step] for step in range(steps)),
        calls=len(plain.samples) / steps,
        outside_s=typical(outside),
        denoisers=lent(denoisers),
    )
    counted = {name: call_macs(target.denoiser, plain.inputs[name]) for name, target in targets.items() if macs}
    return Pricing(times=times, graphs={name: target.layout.graph for name, target in targets.items()}, macs=counted)


def count_plain_macs(pipe: Any, run: Callable[[], object]) -> dict[str, MacsReport]:
    """Multiply-accumulates of a plain call of each denoiser, with what it is given in a run."""
    nothing = StaticCacheConfig(schedule=GeneratorSpec("custom", reuse={}), invariants=False)
    given = _Ear(now).timed(pipe, [nothing], run).inputs
    return {target.name: call_macs(target.denoiser, given[target.name]) for target in find_targets(pipe)}


def check_site_times(
    pipe: Any,
    run: Callable[[], object],
    pricing: Pricing,
    plans: Mapping[str, Sequence[PassConfig]],
    *,
    repeats: int = 3,
    warmup: int = 1,
    clock: Clock = now,
) -> list[Deviation]:
    """Whole runs by the clock beside what the table says of them, all plans in turn.

    Args:
        pipe: The pipeline.
        run: As it was measured with.
        pricing: What was measured.
        plans: Passes by name.
        repeats: Timed runs of each.
        warmup: Untimed runs of each, first.
        clock: Seconds.
    """
    taken: dict[str, list[float]] = {name: [] for name in plans}
    for turn in range(warmup + repeats):
        for name, passes in plans.items():
            with accelerated(pipe, list(passes)):
                began = clock()
                run()
                if turn >= warmup:
                    taken[name].append(clock() - began)
    return [
        Deviation(name=name, predicted_s=pricing.of(passes).seconds, measured_s=median(taken[name]))
        for name, passes in plans.items()
    ]


def _shapes(targets: Iterable[Target], run: Callable[[], object]) -> dict[str, tuple[Any, ...]]:
    """Of every schedulable site that is called, what it shares with those that cost the same."""
    found: dict[str, tuple[Any, ...]] = {}
    handles = []
    for target in targets:
        for site in target.layout.sites:
            module = submodule(target.denoiser, site.path) if site.path and not site.info.auxiliary else None
            if module is None:
                continue

            def see(module: Any, args: Any, output: Any, name: str = site.info.id, kind: str = site.info.kind) -> None:
                if name not in found:
                    sizes = tuple(tuple(leaf.shape) for leaf in leaves(output))
                    size = sum(parameter.numel() for parameter in module.parameters())
                    found[name] = (kind, type(module).__name__, size, sizes)

            handles.append(module.register_forward_hook(see))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return found


def _entries(shapes: Mapping[str, tuple[Any, ...]]) -> list[tuple[str, ...]]:
    """Ids of the sites that are alike, over all denoisers (which share ids where there are two)."""
    alike: dict[tuple[Any, ...], list[str]] = {}
    for name, shape in shapes.items():
        alike.setdefault(shape, []).append(name)
    return [tuple(sites) for sites in alike.values()]


def _schedule(steps: int, reused: Mapping[int, Sequence[str]]) -> Schedule:
    rows: dict[str, list[bool]] = {}
    for step, sites in reused.items():
        for site in sites:
            rows.setdefault(site, [True] * steps)[step] = False
    return Schedule(steps, rows)
