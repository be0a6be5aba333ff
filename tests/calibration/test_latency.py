"""Prices of plans: the arithmetic on made-up times, and the table measured with a clock that only sites move."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
from tiny import tiny_call, tiny_pipeline
from torch import nn
from torch.overrides import TorchFunctionMode

from dit_accel import GeneratorSpec, StaticCacheConfig, TrajectoryConfig
from dit_accel.calibration.latency import DenoiserTimes, Deviation, Pricing, SiteTimes, largest
from dit_accel.calibration.site_samples import typical
from dit_accel.calibration.site_times import check_site_times, measure_site_times
from dit_accel.errors import ConfigError
from dit_accel.passes.compile import CompileConfig
from dit_accel.schedules import Schedule, SiteGraph, SiteInfo

GRAPH = SiteGraph(
    (
        SiteInfo(id="model", kind="model"),
        SiteInfo(id="b", kind="block", parent="model", block=0),
        SiteInfo(id="b.attn", kind="self_attn", parent="b", block=0),
        SiteInfo(id="b.ff", kind="ff", parent="b", block=0),
    )
)
TIMES = DenoiserTimes(call_s=10.0, answered_s=0.5, first_s=1.0, sites_s={"b": 8.0, "b.attn": 3.0, "b.ff": 4.0})
TWO = SiteTimes(
    device="cpu", evaluations=("one", "one", "one", "two", "two"), calls=2.0, outside_s=7.0,
    denoisers={"one": TIMES, "two": DenoiserTimes(call_s=1.0, answered_s=0.5, sites_s={})},
)  # fmt: skip
PRICING = Pricing(times=TWO, graphs={"one": GRAPH, "two": GRAPH})


def static(rows: dict[str, str], steps: int = 5) -> StaticCacheConfig:
    return StaticCacheConfig(schedule=Schedule(steps, rows), invariants=False)


@pytest.mark.parametrize(
    ("passes", "seconds"),
    [
        ((), 9 + 2 * (3 * 10 + 2 * 1)),
        ((static({"b.ff": "10111"}),), 9 + 2 * (3 * 10 - 4 + 2)),
        # The block is reused with all that is in it; the second denoiser begins anew at its first evaluation.
        ((static({"b": "10011", "b.ff": "10011"}),), 9 + 2 * (3 * 10 - 2 * 8 + 2)),
        # Of the second denoiser nothing is known to save anything.
        ((static({"b.ff": "11110"}),), 9 + 2 * (3 * 10 + 2)),
        # An answered evaluation costs what an answer costs; the first of each denoiser is computed.
        ((TrajectoryConfig(computed=(True, False, True, False, False)),), 9 + 2 * (20 + 0.5 + 1 + 0.5)),
        # Reused inside of what is computed: at evaluation 2, from 0.
        (
            (TrajectoryConfig(computed=(True, False, True, True, True)), static({"b.attn": "10011"})),
            9 + 2 * (10 + 0.5 + 7 + 2),
        ),
    ],
)
def test_a_plan_costs_what_its_rows_compute(passes: tuple[Any, ...], seconds: float) -> None:
    assert PRICING.of(passes).seconds == pytest.approx(seconds)


def test_what_cannot_be_priced_is_refused() -> None:
    with pytest.raises(ConfigError, match="'compile' cannot be priced"):
        PRICING.of([CompileConfig()])


def test_times_are_written_and_read() -> None:
    assert SiteTimes.from_dict(TWO.to_dict()) == TWO


def test_sites_of_different_entries_save_less_together() -> None:
    times = DenoiserTimes(
        call_s=10.0,
        answered_s=0.5,
        sites_s={"b.attn": 3.0, "b.ff": 4.0},
        entries={"b.attn": 0, "b.ff": 1},
        overlap=0.5,
    )
    assert times.without(GRAPH, {"b.ff"}) == 6.0
    assert times.without(GRAPH, {"b.ff", "b.attn"}) == pytest.approx(10 - 7 + 0.5 * 3 * 4 / 10)
    alike = replace(times, entries={"b.attn": 0, "b.ff": 0})
    assert alike.without(GRAPH, {"b.ff", "b.attn"}) == 3.0
    whole = replace(times, entries={"b.attn": 0})  # what is no leaf is not known to overlap
    assert whole.without(GRAPH, {"b.ff", "b.attn"}) == 3.0


def test_what_disturbed_a_sample_does_not_count() -> None:
    assert typical([1.0] * 9 + [50.0]) == 1.0 and typical([1.0, 2.0]) == 1.5


def test_deviations_are_of_what_was_measured() -> None:
    found = [Deviation(name=str(p), predicted_s=p, measured_s=4.0) for p in (3.9, 4.1, 3.6)]
    assert [each.frac for each in found] == pytest.approx([-0.025, 0.025, -0.1])
    assert largest(found) == pytest.approx(0.1) and largest([]) == 0.0


class FakeClock(TorchFunctionMode):
    """Time passes only in linear layers and convolutions: a second for a million weights and tokens."""

    seconds = 0.0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (nn.functional.linear, nn.functional.conv2d, nn.functional.conv3d):
            self.seconds += 1e-6 * args[1].numel() * args[0].numel() / args[0].shape[-1]
        return function(*args, **(kwargs or {}))

    def __call__(self) -> float:
        return self.seconds


@pytest.mark.parametrize("name", ["pixart", "sd", "wan22"])
def test_a_measured_table_predicts_whole_runs(name: str) -> None:
    """With such a clock, what a reuse saves is exact, so that every prediction is."""
    pipe = tiny_pipeline(name)
    steps = 8

    def run() -> object:
        return pipe(**tiny_call(name, num_inference_steps=steps))

    with FakeClock() as clock:
        pricing = measure_site_times(pipe, run, rounds=1, clock=clock)
    rules = {"pixart": [GeneratorSpec("t_gate", gate=3)], "sd": [GeneratorSpec("deepcache", n=3)]}.get(name, [])
    rules.append(GeneratorSpec("every_n", n=2))
    plans: dict[str, Any] = {"plain": (StaticCacheConfig(schedule=Schedule(steps, {}), invariants=False),)}
    for rule, speedup in itertools.product(rules, (1.0, 2.0)):
        plans[f"{rule.name} {speedup}"] = (StaticCacheConfig(schedule=rule), TrajectoryConfig(speedup=speedup))
    with clock:
        found = check_site_times(pipe, run, pricing, plans, repeats=1, warmup=0, clock=clock)
    assert largest(found) < 0.01, found
    costs = [pricing.of(plans[each.name]) for each in found]
    assert costs[0].macs is not None and all(c.macs < costs[0].macs for c in costs[1:])
    assert all(cost.linear_macs <= cost.macs for cost in costs)


def test_too_few_evaluations_are_refused() -> None:
    pipe = tiny_pipeline("pixart")
    with pytest.raises(ConfigError, match="not of 3"):
        measure_site_times(pipe, lambda: pipe(**tiny_call("pixart", num_inference_steps=3)))
