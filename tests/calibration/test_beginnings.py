"""A search that begins with the calls of known plans never ends below them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quick_calibration import no_networks, quick, quick_pipeline

from dit_accel import AccelerationPlan, GeneratorSpec, StaticCacheConfig, TrajectoryConfig
from dit_accel.calibration import judging
from dit_accel.calibration.beginnings import first_choices, steps_of_plan
from dit_accel.calibration.choose import Gaps
from dit_accel.errors import AccelerationWarning, ConfigError

STEPS = 8


def plan_of(*computed: int, num_steps: int = STEPS, **more: Any) -> AccelerationPlan:
    config = TrajectoryConfig(computed=tuple(step in computed for step in range(num_steps)), **more)
    return AccelerationPlan(name="known", passes=(StaticCacheConfig(schedule=GeneratorSpec("every_n", n=2)), config))


def gaps(boundaries: tuple[int, ...] = ()) -> Gaps:
    made = np.random.default_rng(0).normal(size=(2 * STEPS + 1, 40)).cumsum(0)
    return Gaps(made @ made.T, [1.0] * STEPS, boundaries)


def test_the_calls_of_a_plan_are_among_the_first_choices_once() -> None:
    without = first_choices(gaps())
    odd = plan_of(0, 1, 6)
    assert (0, 1, 6) not in without
    assert first_choices(gaps(), [odd, odd]) == [*without, (0, 1, 6)]
    assert first_choices(gaps(), [plan_of(*without[0])]) == without
    assert (0, 1, 4, 6) in first_choices(gaps((4,)), [odd])  # another denoiser takes over there


def test_another_number_of_steps_gets_as_large_a_share() -> None:
    assert steps_of_plan(plan_of(0, 5, 10, 15, num_steps=16), STEPS) == (0, 7)
    longer = steps_of_plan(plan_of(0, 2, 4, 7), 16)
    assert len(longer) == 8 and longer[0] == 0 and longer[-1] == 15
    by_theory = AccelerationPlan(passes=(TrajectoryConfig(speedup=2.0),))
    assert len(steps_of_plan(by_theory, STEPS)) == 4


def test_a_plan_that_computes_everything_is_refused() -> None:
    cached = AccelerationPlan(name="balanced", passes=(StaticCacheConfig(schedule=GeneratorSpec("every_n", n=2)),))
    with pytest.raises(ConfigError, match=r"cannot begin with plan 'balanced'.*\(static_cache\)"):
        first_choices(gaps(), [cached])


def test_a_search_that_is_given_a_plan_judges_it_and_keeps_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("deap")
    monkeypatch.setattr(judging, "available_perceptual", no_networks)
    pipe = quick_pipeline()
    table = torch.zeros(5, 7, dtype=torch.float64)
    known = plan_of(0, 1, num_steps=5, weights=table, unconditional=table)
    with pytest.warns(AccelerationWarning, match=r"apart for each guidance branch.*--branches"):
        found = quick(pipe, tmp_path, plans=[known], generations=0)
    judged = {point.computed: point for point in found.points}
    mine = judged[0, 1]
    assert any(len(p.computed) <= 2 and p.score_db >= mine.score_db for p in found.front)
    with pytest.raises(ConfigError, match="a calibration of something else"), pytest.warns(AccelerationWarning):
        quick(pipe, tmp_path, plans=[plan_of(0, 2, num_steps=5, weights=table, unconditional=table)])
