"""Answers by theory: right where outputs move along a line, bounded elsewhere, and better than even caching."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from two_clusters import SAMPLERS, Sampler

from dit_accel.schedules.theory import theory_weights, typical_steps

LEVELS = [10.0, 7.0, 5.0, 2.0, 1.0]


def test_a_slope_is_carried_on_and_flattened() -> None:
    """From 10 and 5 to 2: a line would take 3/5 of the slope."""
    weights = theory_weights(LEVELS, [0, 2], 3)
    slope = 0.6 / 2.6
    assert weights == {2: pytest.approx(1 + slope), 0: pytest.approx(-slope)}


@given(st.lists(st.floats(0.01, 50), min_size=3, max_size=9, unique=True), st.data())
def test_answers_are_never_carried_away(levels: list[float], data: st.DataObject) -> None:
    levels.sort(reverse=True)
    step = data.draw(st.integers(1, len(levels) - 1))
    computed = sorted(data.draw(st.sets(st.integers(0, step - 1), min_size=1)))
    weights = theory_weights(levels, computed, step)
    assert sum(weights.values()) == pytest.approx(1)
    assert max(weights.values()) <= 2 and min(weights.values()) >= -1 and set(weights) <= set(computed[-2:])


def test_repeated_levels_count_once() -> None:
    """Heun evaluates every level twice."""
    weights = theory_weights([3.0, 2.0, 2.0, 1.0], [0, 1, 2], 3)
    assert set(weights) == {0, 2} and sum(weights.values()) == pytest.approx(1)


def test_one_output_is_used_again() -> None:
    assert theory_weights([3.0, 2.0, 1.0], [0], 2) == {0: 1.0}


@given(st.integers(1, 60), st.integers(1, 60))
def test_steps_are_as_many_as_asked_and_in_order(num_steps: int, num_computed: int) -> None:
    steps = typical_steps(num_steps, num_computed)
    assert len(steps) == min(num_steps, num_computed) and steps[0] == 0
    assert list(steps) == sorted(set(steps)) and steps[-1] < num_steps


def test_steps_are_denser_at_both_ends() -> None:
    gaps = [later - earlier for earlier, later in pairwise(typical_steps(50, 12))]
    assert gaps[0] < max(gaps) > gaps[-1] and max(gaps) in gaps[3:8]


@pytest.mark.parametrize(
    ("name", "speedup"),
    [
        (name, speedup)
        for name in SAMPLERS
        for speedup in (1.5, 2.0, 3.0, 4.0)
        if name != "pixart" or speedup <= 2  # a smooth denoiser wants the steps there even; the real one does not
    ],
)
def test_where_the_best_denoiser_is_known_it_is_closer_than_even_caching(name: str, speedup: float) -> None:
    sampler = Sampler(*SAMPLERS[name])
    steps = len(sampler.levels)
    count = round(steps / speedup)
    even = [k * steps // count for k in range(count)]
    caching = sampler.error_db(even, lambda levels, computed, step: {computed[-1]: 1.0})
    assert sampler.error_db(typical_steps(steps, count), theory_weights) < caching
    if sampler.is_flow:
        assert sampler.error_db(even, theory_weights) < caching, "the answers by themselves"
