"""The solvers against brute force over all ways through a few steps, and on cases that can be checked by hand."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_accel.schedules import ScheduleError
from dit_accel.schedules.solvers import (
    Table,
    bits,
    minimax_path,
    ordered_groups,
    shortest_path,
    smallest_alpha,
    smooth_schedule,
    smooth_steps,
    summed_gaps,
)


def ways(num_steps: int, num_computed: int, shortest: int, longest: int) -> Iterator[tuple[int, ...]]:
    """All choices of steps, by themselves."""
    for rest in itertools.combinations(range(1, num_steps), num_computed - 1):
        ends = (0, *rest, num_steps)
        if all(shortest <= b - a <= longest for a, b in itertools.pairwise(ends)):
            yield (0, *rest)


def edges(gaps: Table, path: tuple[int, ...]) -> list[float]:
    return [float(gaps[a, b]) for a, b in itertools.pairwise((*path, len(gaps)))]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Table, int, int, int]:
    """A table [T, T + 1], some of it unknown; how many steps are computed; bounds of the gaps."""
    num_steps = draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    table = rng.integers(0, 6, (num_steps, num_steps + 1)).astype(float)  # whole numbers: many equals
    if draw(st.booleans()):
        table = rng.random((num_steps, num_steps + 1))
    table[rng.random(table.shape) < draw(st.sampled_from([0.0, 0.2]))] = draw(st.sampled_from([np.nan, np.inf]))
    shortest = draw(st.integers(1, 2))
    return table, draw(st.integers(1, num_steps)), shortest, draw(st.integers(shortest, num_steps + 1))


def best(table: Table, paths: list[tuple[int, ...]], gamma: float) -> float:
    return min(sum(e**gamma for e in edges(table, path)) for path in paths)


@settings(max_examples=150, deadline=None)
@given(cases(), st.sampled_from([0.5, 1.0, 2.0, 4.0]))
def test_paths_are_the_best_of_all(case: tuple[Table, int, int, int], gamma: float) -> None:
    table, count, shortest, longest = case
    paths = [p for p in ways(len(table), count, shortest, longest) if np.isfinite(edges(table, p)).all()]
    if not paths:
        with pytest.raises(ScheduleError, match=f"computes {count} of them"):
            shortest_path(table, count, gamma=gamma, shortest=shortest, longest=longest)
        with pytest.raises(ScheduleError, match=f"computes {count} of them"):
            minimax_path(table, count, shortest=shortest, longest=longest)
        return
    least_sum = shortest_path(table, count, gamma=gamma, shortest=shortest, longest=longest)
    assert least_sum in paths
    assert best(table, [least_sum], gamma) == pytest.approx(best(table, paths, gamma))
    least_worst = minimax_path(table, count, shortest=shortest, longest=longest)
    assert least_worst in paths
    assert sorted(edges(table, least_worst))[::-1] == min(sorted(edges(table, path))[::-1] for path in paths)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 12), st.data())
def test_groups_are_the_best_of_all(num_steps: int, data: st.DataObject) -> None:
    """Distances of real features, summed up within each group by hand."""
    features = np.random.default_rng(data.draw(st.integers(0, 999))).normal(size=(num_steps, 5))
    distances = np.abs(features[:, None] - features[None]).sum(axis=-1)
    count = data.draw(st.integers(1, num_steps))

    def within(leaders: tuple[int, ...]) -> float:
        groups = itertools.pairwise((*leaders, num_steps))
        return sum(np.abs(features[t] - features[a]).sum() for a, b in groups for t in range(a, b))

    longest = data.draw(st.sampled_from([num_steps, 2 * -(-num_steps // count)]))
    found = ordered_groups(distances, count, longest=longest)
    assert len(found) == count
    assert within(found) == pytest.approx(min(within(way) for way in ways(num_steps, count, 1, longest)))


def test_groups_find_where_a_feature_jumps() -> None:
    levels = np.repeat([0.0, 5.0, -3.0, 1.0], [3, 5, 2, 4])
    assert ordered_groups(np.abs(levels[:, None] - levels[None]), 4) == (0, 3, 8, 10)


def test_the_cost_falls_with_the_number_of_groups() -> None:
    walk = np.random.default_rng(0).normal(size=20).cumsum()
    distances = np.abs(walk[:, None] - walk[None])
    gaps = summed_gaps(distances)
    costs = [sum(edges(gaps, ordered_groups(distances, count))) for count in range(1, 21)]
    assert costs == sorted(costs, reverse=True) and costs[-1] == 0.0


def test_the_worst_gap_is_what_minimax_minds() -> None:
    gaps = np.full((4, 5), 9.0)
    gaps[0, 1] = gaps[0, 3] = 0.0
    gaps[1, 4], gaps[3, 4] = 3.0, 4.0
    gaps[0, 2], gaps[2, 4] = 2.5, 2.5
    assert shortest_path(gaps, 2) == (0, 1)
    assert minimax_path(gaps, 2) == (0, 2)
    assert shortest_path(gaps, 2, gamma=8) == (0, 2)


def test_a_high_power_neither_overflows_nor_vanishes() -> None:
    gaps = np.random.default_rng(1).random((8, 9))
    assert shortest_path(gaps * 1e200, 3, gamma=4) == shortest_path(gaps * 1e-200, 3, gamma=4)


CURVE = [[0.1, 0.2, 0.9], [0.1, 0.1, 0.1], [0.1, 0.1, 0.1], [0.5, 0.5], [0.1], []]


def test_smooth_steps_take_the_longest_run_below_alpha() -> None:
    assert smooth_steps(CURVE, alpha=0.3, max_skip=3) == (0, 3, 4)
    assert smooth_steps(CURVE, alpha=0.3, max_skip=1) == (0, 2, 4)
    assert smooth_steps(CURVE, alpha=0.0, max_skip=3) == (0, 1, 2, 3, 4, 5)
    assert smooth_steps([[0.5, 0.1], [float("nan")], []], alpha=0.3, max_skip=2) == (0, 1, 2)


def test_all_sites_of_a_kind_share_their_steps() -> None:
    schedule = smooth_schedule(
        {"ff": CURVE}, {"blocks.0.ff": "ff", "blocks.0.attn": "self_attn"}, alpha=0.3, max_skip=3
    )
    assert schedule.recompute == {"blocks.0.ff": (True, False, False, True, True, False)}
    assert smooth_schedule({"ff": CURVE}, {"blocks.0.ff": "ff"}, alpha=0.0, max_skip=3).is_exact


def test_the_smallest_alpha_that_computes_little_enough() -> None:
    errors = {"ff": CURVE, "self_attn": [[2 * e for e in row] for row in CURVE]}
    sites = {"a": "ff", "b": "ff", "c": "self_attn", "d": "text"}
    alphas = sorted({e for curve in errors.values() for row in curve for e in row})
    for share in (0.4, 0.5, 0.7, 0.9):
        alpha = smallest_alpha(errors, sites, share=share, max_skip=3)

        def computed(alpha: float) -> float:
            made = smooth_schedule(errors, sites, alpha=alpha, max_skip=3)
            return sum(made.recomputes(step, site) for step in range(6) for site in "abc") / 18

        assert computed(alpha) <= share
        assert all(computed(lower) > share for lower in alphas if lower < alpha - 1e-6)
    with pytest.raises(ScheduleError, match="no alpha computes as little as 10%"):
        smallest_alpha(errors, sites, share=0.1, max_skip=3)


def test_rows() -> None:
    assert bits((0, 3), 5) == (True, False, False, True, False)


@pytest.mark.parametrize(
    ("count", "more", "message"),
    [
        pytest.param(0, {}, "1 to 4 can be computed, not 0", id="none"),
        pytest.param(5, {}, "1 to 4 can be computed, not 5", id="too-many"),
        pytest.param(1, {"longest": 3}, "no way through 4 steps computes 1 of them", id="gap-too-long"),
        pytest.param(2, {"gamma": 0.0}, "'gamma' must be above 0", id="gamma"),
    ],
)
def test_refused(count: int, more: dict[str, float], message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        shortest_path(np.ones((4, 5)), count, **more)  # type: ignore[arg-type]


def test_tables_that_are_none() -> None:
    with pytest.raises(ScheduleError, match=r"\[T, T \+ 1\], got \[4, 4\]"):
        minimax_path(np.ones((4, 4)), 2)
    with pytest.raises(ScheduleError, match="negative"):
        minimax_path(-np.ones((4, 5)), 2)
