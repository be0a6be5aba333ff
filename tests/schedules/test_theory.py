"""Answers by theory: exact on what they assume, in every grid of noise levels."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dit_accel.schedules.theory import lagrange, theory_weights, typical_steps


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=4, unique=True), st.integers(-60, 60))
def test_polynomials_are_continued_exactly(nodes: list[int], at: int) -> None:
    def polynomial(x: float) -> float:
        return sum((k + 1) * x**k for k in range(len(nodes)))

    weights = lagrange([float(node) for node in nodes], float(at))
    assert sum(w * polynomial(n) for w, n in zip(weights, nodes, strict=True)) == pytest.approx(
        polynomial(at), abs=1e-3
    )


def test_a_line_in_the_noise_level_is_continued() -> None:
    levels = [10.0, 7.0, 5.0, 2.0, 1.0]
    weights = theory_weights(levels, [0, 2], 3)
    assert sum(w * (3 * levels[step] + 1) for step, w in weights.items()) == pytest.approx(7)
    assert sum(weights.values()) == pytest.approx(1)


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
