"""A quantised plan and a trajectory in one, and exact evaluations as genes."""

import random
from typing import Any

import pytest
import torch
from quick_calibration import no_networks, quick_pipeline
from tiny import tiny_pipeline

from dit_accel import AccelerationPlan, QuantizeConfig, TrajectoryConfig, accelerated, is_accelerated
from dit_accel.calibration import quant_joint
from dit_accel.calibration.fit import fit
from dit_accel.calibration.latency import DenoiserTimes, Pricing, SiteTimes
from dit_accel.calibration.quant_joint import join
from dit_accel.calibration.recording import record
from dit_accel.calibration.sites_children import crossed, mutated
from dit_accel.calibration.sites_genome import Genome
from dit_accel.calibration.sites_judge import Prices, SiteJudge, quantised_at
from dit_accel.calibration.sites_quantised import exact_ends, quantised_by, quantised_frac
from dit_accel.calibration.subject import subject_of
from dit_accel.errors import ConfigError
from dit_accel.families.targets import find_targets
from dit_accel.passes.quantize.layer import QuantLinear
from dit_accel.pipelines.generation import GenerationSettings, generate

STEPS = 6
ROUNDED = QuantizeConfig(bits="w4a4", backend="integers")


def quantised() -> AccelerationPlan:
    return AccelerationPlan(name="w4a4", passes=(ROUNDED,))


def test_a_trajectory_is_fitted_on_the_quantised_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quant_joint, "available_perceptual", no_networks)
    pipe = quick_pipeline()
    other = AccelerationPlan(name="half", passes=(TrajectoryConfig(speedup=2.0),))
    found = join(
        pipe,
        quantised(),
        other,
        model="quick",
        settings=GenerationSettings(num_inference_steps=STEPS),
        num_prompts=3,
        judged=2,
        most_gain=1.2,
    )
    assert not is_accelerated(pipe) and found.plan.name == "w4a4-half"
    rounding, fitted = found.plan.passes
    assert rounding is ROUNDED and isinstance(fitted, TrajectoryConfig) and fitted.weights is not None
    assert fitted.steps_of(STEPS) == TrajectoryConfig(speedup=2.0).steps_of(STEPS) and len(fitted.guard) == STEPS
    assert 0 < found.gain <= 1.2 * (1 + 1e-5)
    assert list(found.scores) == ["quantised", "trajectory", "together", "joint"]
    # The weights are those of a fit with the quantised model beneath, and others than those of the plain model.
    draw = subject_of(pipe, "quick", GenerationSettings(num_inference_steps=STEPS), num_prompts=3).draw_at()
    reference, steps = record(pipe, draw, 0, 3), fitted.steps_of(STEPS)
    again = fit(pipe, draw, reference, steps, 0, 3, beneath=(ROUNDED,), most_gain=1.2).config
    plain = fit(pipe, draw, reference, steps, 0, 3, most_gain=1.2).config
    assert again.weights is not None and torch.equal(again.weights, fitted.weights)
    assert plain.weights is not None and not torch.allclose(plain.weights, fitted.weights, atol=1e-3)


def test_what_cannot_be_joined() -> None:
    pipe = tiny_pipeline("pixart")
    half = AccelerationPlan(passes=(TrajectoryConfig(speedup=2.0),))
    for first, second, words in (
        (half, half, "does not quantise"),
        (quantised(), quantised(), "quantises too"),
        (quantised(), AccelerationPlan(), "computes every denoiser call"),
    ):
        with pytest.raises(ConfigError, match=words):
            join(pipe, first, second, model="tiny")
    with pytest.raises(ConfigError, match="at least 1"):
        join(pipe, quantised(), half, model="tiny", most_gain=0.5)
    with pytest.raises(ConfigError, match="does not quantise"):
        quantised_by(half)
    with pytest.raises(ConfigError, match="keeps 1 and 0 steps exact"):
        quantised_by(AccelerationPlan(passes=(QuantizeConfig(exact_first=1),)))


def test_exact_ends_are_genes() -> None:
    both = Genome.of((0, 2, 5), STEPS, exact=(2, 3))
    assert both.exact == (1, 1), "in canonical form: evaluations that are answered have no weights"
    assert quantised_at(both) == (2,) and Genome.from_dict(both.to_dict()) == both != Genome.of((0, 2, 5), STEPS)
    assert "exact" not in Genome.of((0, 2), STEPS).to_dict()
    assert both.having(computed=(0, 1, 2, 4)).exact == (1, 0)
    rng, seen, groups = random.Random(0), set(), {"ff.0": ("blocks.0.ff",)}
    for _ in range(200):
        child = mutated(
            rng, crossed(rng, both, Genome.of((0, 3), STEPS)), groups, frozenset(), halves=True, quantised=True
        )
        assert Genome.from_dict(child.to_dict()) == child
        seen.add(child.exact)
    assert len(seen) > 5
    plain = [mutated(random.Random(k), Genome.of((0, 3), STEPS), groups, frozenset(), halves=True) for k in range(100)]
    assert {child.exact for child in plain} == {(0, 0)}
    seeds = {"a": Genome.of((0, 3), STEPS), "b": Genome.of((0, 3), STEPS, {"ff": [3]})}
    assert exact_ends(seeds) == {"a, ends exact": Genome.of((0, 3), STEPS, exact=(1, 0))}


def test_few_bits_cost_what_they_were_measured_to() -> None:
    times = DenoiserTimes(call_s=2.0, answered_s=0.0, sites_s={})
    table = SiteTimes(
        device="cpu", evaluations=("transformer",) * STEPS, calls=1, outside_s=1.0, denoisers={"transformer": times}
    )
    graph = find_targets(tiny_pipeline("pixart"))[0].layout.graph
    prices = Prices(pricing=Pricing(times=table, graphs={"transformer": graph}), groups={}, quantised_frac=0.25)
    assert prices.of(Genome.of(range(STEPS), STEPS)).seconds == pytest.approx(1 + 12 * 0.25)
    assert prices.of(Genome.of((0, 2, 5), STEPS, exact=(1, 1))).seconds == pytest.approx(1 + 2 + 2 + 0.5)
    ticks = iter([0.0, 5.0, 10.0, 13.0, 20.0, 26.0, 30.0, 35.0])
    pipe = tiny_pipeline("pixart")
    assert quantised_frac(pipe, lambda: None, ROUNDED, 1.0, lambda: next(ticks)) == 0.5


def test_exact_evaluations_run_the_weights_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in the layers themselves, in a run that the search judges by."""
    pipe = quick_pipeline()
    ran: list[tuple[str, int]] = []
    exactly, way = QuantLinear.exactly, QuantLinear.quantised
    calls = {"step": -1}
    watched = pipe.transformer.transformer_blocks[0].attn1.to_q
    named = watched.weight.shape

    def see_exact(self: QuantLinear, x: torch.Tensor) -> torch.Tensor:
        if self.original is watched:
            ran.append(("exact", calls["step"]))
        return exactly(self, x)

    def see_few(self: QuantLinear, rows: torch.Tensor) -> Any:
        if self.original is watched:
            ran.append(("few", calls["step"]))
        return way(self, rows)

    monkeypatch.setattr(QuantLinear, "exactly", see_exact)
    monkeypatch.setattr(QuantLinear, "quantised", see_few)
    settings = GenerationSettings(num_inference_steps=STEPS)

    def draw(first: int, last: int) -> torch.Tensor:
        return generate(pipe, ["a", "b"][first:last], range(first, last), settings)

    reference = record(pipe, draw, 0, 2)
    judge = SiteJudge(pipe=pipe, draw=draw, reference=reference, groups={}, moments=None, quantised=ROUNDED)
    genome = Genome.of((0, 2, 3, 5), STEPS, exact=(1, 1))
    passes, _, _ = judge.fit(genome, 2)
    assert passes[0].exact_first == passes[0].exact_last == 1  # type: ignore[attr-defined]
    assert named == watched.weight.shape
    ran.clear()
    step = type(pipe.scheduler).step
    calls["step"] = 0

    def counted(self: Any, *args: Any, **more: Any) -> Any:
        calls["step"] += 1
        return step(self, *args, **more)

    monkeypatch.setattr(type(pipe.scheduler), "step", counted)
    with accelerated(pipe, list(passes)):
        draw(0, 1)
    assert set(ran) == {("exact", 0), ("few", 2), ("few", 3), ("exact", 5)}
