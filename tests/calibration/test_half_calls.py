"""Half calls as candidates of the search: written so that nothing else changes, priced at half, really judged."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quick_calibration import PROMPTS, SETTINGS, no_networks, quick, quick_pipeline

from dit_accel import AccelerationPlan, TrajectoryConfig, accelerate_pipeline, summary
from dit_accel.calibration import evolve, judging
from dit_accel.calibration.beginnings import first_choices
from dit_accel.calibration.calls import cost_of, halves, joined, whole, words
from dit_accel.calibration.choose import Gaps
from dit_accel.calibration.evolve import crossed, halved, mutated, surrogate
from dit_accel.calibration.front import Point, front_of
from dit_accel.calibration.shelf import NAME, place_of
from dit_accel.errors import ConfigError

STEPS = 8


def gaps(boundaries: tuple[int, ...] = ()) -> Gaps:
    made = np.random.default_rng(0).normal(size=(2 * STEPS + 1, 40)).cumsum(0)
    return Gaps(made @ made.T, [1.0] * STEPS, boundaries)


def test_a_set_is_one_tuple_and_without_halves_what_it_was() -> None:
    steps = joined((0, 6, 3), (4, 2, 3))
    assert steps == (0, ~2, 3, ~4, 6) and whole(steps) == (0, 3, 6) and halves(steps) == (2, 4)
    assert joined((0, 5)) == (0, 5) and cost_of(steps) == 4 and words((0, 3, ~5)) == "2.5" and words((0, 3)) == "2"
    assert tuple(json.loads(json.dumps(steps))) == steps


def test_a_half_costs_half_on_the_front_and_on_the_shelf(tmp_path: Path) -> None:
    points = [
        Point(computed=steps, num_steps=STEPS, psnr_db=db, worst_db=db)
        for steps, db in (((0, 3), 20.0), ((0, 3, ~5), 22.0), ((0, ~3, ~5), 21.0), ((0, 3, 5), 22.0))
    ]
    assert [point.computed for point in front_of(points)] == [(0, ~3, ~5), (0, 3, ~5)]
    assert points[1].saved == 3.2 and points[1].cost_frac == 2.5 / STEPS
    names = [place_of(tmp_path, point).name for point in points]
    assert names == ["2-of-8", "2.5-of-8", "2-of-8", "3-of-8"] and all(map(NAME.fullmatch, names))


def test_children_keep_what_must_stay() -> None:
    rng, fixed = random.Random(0), {0, 5}
    costs = set()
    for _ in range(300):
        child = halved(rng, (0, 3, 5, ~6), gaps((5,)))
        assert fixed <= set(whole(child)) and not set(whole(child)) & set(halves(child))
        assert list(map(evolve.at, child)) == sorted({*whole(child), *halves(child)}) and max(child) < STEPS
        moved = mutated(rng, child, gaps((5,)))
        assert set(halves(moved)) | set(whole(moved)) >= set(halves(child))
        both = crossed(rng, child, (0, ~1, 5), STEPS)
        assert both == joined(whole(both), halves(both)) and both[0] == 0
        costs.add(cost_of(child))
    assert {3.0, 3.5, 4.0} <= costs


def test_the_surrogate_gives_a_half_half_of_what_it_spares() -> None:
    none, full = surrogate(gaps(), (0, 4)), surrogate(gaps(), (0, 2, 4))
    assert surrogate(gaps(), (0, ~2, 4)) == pytest.approx((none + full) / 2)


def test_halves_of_known_plans_are_begun_with_where_they_are_searched_for() -> None:
    config = TrajectoryConfig(computed=(True, False, False, True, False, False, False, False))
    object.__setattr__(config, "conditional", tuple(step == 5 for step in range(STEPS)))
    plan = AccelerationPlan(passes=(config,))
    assert (0, 3) in first_choices(gaps(), [plan]) and (0, 3, ~5) in first_choices(gaps(), [plan], half_calls=True)


def test_a_search_judges_them_and_their_plans_do_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("deap")
    monkeypatch.setattr(judging, "available_perceptual", no_networks)
    monkeypatch.setattr(evolve, "CHILDREN", 4)
    pipe = quick_pipeline()
    found = quick(pipe, tmp_path, branches=True, half_calls=True, generations=2)
    half = [point for point in found.points if halves(point.computed)]
    assert half and not found.skipped
    point = half[0]
    plan = found.plan(point)
    (config,) = plan.passes
    assert isinstance(config, TrajectoryConfig) and config.conditional
    assert tuple(step for step, alone in enumerate(config.conditional) if alone) == halves(point.computed)
    accelerate_pipeline(pipe, plan)
    judging.drawing(pipe, PROMPTS, SETTINGS)(0, 1)
    actual: Any = summary(pipe).denoisers[0].effects["trajectory"].actual_frac
    assert actual == pytest.approx(1 - point.cost_frac)
    again = quick(pipe, tmp_path, branches=True, half_calls=True, generations=2)
    assert again.points == found.points and again.hypervolume == found.hypervolume


@pytest.mark.parametrize("more", [{}, {"branches": True, "guidance_values": (2.0,)}])
def test_they_take_weights_of_each_branch_at_one_scale(tmp_path: Path, more: Any) -> None:
    with pytest.raises(ConfigError, match="half calls take weights of each guidance branch"):
        quick(quick_pipeline(), tmp_path, half_calls=True, **more)
