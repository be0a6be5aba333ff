"""The schedule itself: its data format, its rules, its errors; and resampling to other step counts."""

import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dit_accel.schedules import Schedule, ScheduleError, SiteGraph, SiteInfo, resample

GRAPH = SiteGraph(
    (
        SiteInfo(id="model", kind="model"),
        SiteInfo(id="b.0", kind="block", parent="model", block=0),
        SiteInfo(id="b.0.attn", kind="self_attn", parent="b.0", block=0),
        SiteInfo(id="b.0.ff", kind="ff", parent="b.0", block=0),
    )
)


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    num_steps = draw(st.integers(1, 24))
    row = st.lists(st.booleans(), min_size=num_steps, max_size=num_steps)
    return Schedule(num_steps, draw(st.dictionaries(st.sampled_from(["a", "b", "c.0.ff"]), row)))


@given(schedules())
def test_round_trip_through_json_and_pickle(schedule: Schedule) -> None:
    again = Schedule.from_dict(json.loads(json.dumps(schedule.to_dict())))
    assert again == schedule
    assert hash(again) == hash(schedule)
    assert pickle.loads(pickle.dumps(schedule)) == schedule


@given(schedules())
def test_step_zero_is_always_recomputed(schedule: Schedule) -> None:
    assert all(schedule.recomputes(0, site) for site in ("a", "b", "elsewhere"))


@given(schedules(), schedules())
def test_merged_reuses_wherever_one_of_the_two_does(one: Schedule, other: Schedule) -> None:
    if one.num_steps != other.num_steps:
        with pytest.raises(ScheduleError, match="cannot merge schedules of"):
            one.merged(other)
        return
    both = one.merged(other)
    assert both == other.merged(one)
    for step in range(one.num_steps):
        for site in ("a", "b", "c.0.ff"):
            assert both.recomputes(step, site) == (one.recomputes(step, site) and other.recomputes(step, site))


def test_equal_behaviour_is_equality() -> None:
    assert Schedule(3, {"a": "011"}) == Schedule(3, {"a": [True, True, True]}) == Schedule(3, {})
    assert Schedule(3, {"a": "010"}) == Schedule(3, {"a": (1, 1, 0), "b": "111"})
    assert Schedule(3, {"a": "010"}) != Schedule(3, {"a": "011"})
    assert Schedule(3, {}) != Schedule(4, {})
    assert len({Schedule(3, {"a": "110"}), Schedule(3, {"a": "010"}), Schedule(3, {})}) == 2


def test_it_is_immutable() -> None:
    schedule = Schedule(3, {"a": "110"})
    with pytest.raises(AttributeError):
        schedule.num_steps = 4  # type: ignore[misc]
    with pytest.raises(TypeError):
        schedule.recompute["a"] = (True,) * 3  # type: ignore[index]


def test_reuse_fraction_counts_leaf_sites() -> None:
    half = Schedule(4, {"b.0.attn": "1010", "b.0.ff": "1010"})
    assert half.reuse_fraction(GRAPH) == 0.5
    assert half.reuse_fraction(GRAPH, kinds=("ff",)) == 0.5
    assert Schedule(4, {}).reuse_fraction(GRAPH) == 0.0
    assert Schedule(4, {}).is_exact and not half.is_exact


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param((0, {}), "at least one step, got 0", id="no-steps"),
        pytest.param((3, {"a": "10"}), "site 'a' has 2 entries for 3 steps", id="short-row"),
        pytest.param((3, {"a": "1x0"}), "site 'a': a row is written in 0 and 1, got '1x0'", id="other-characters"),
    ],
)
def test_refused(arguments: tuple[int, Any], message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        Schedule(*arguments)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param({"num_steps": 3}, "keys 'num_steps' and 'recompute', got", id="missing-key"),
        pytest.param({"num_steps": 3, "recompute": {}, "x": 1}, r"got \['num_steps', 'recompute', 'x'\]", id="more"),
        pytest.param({"num_steps": "3", "recompute": {}}, "whole number", id="text-for-steps"),
        pytest.param({"num_steps": True, "recompute": {}}, "whole number", id="bool-for-steps"),
        pytest.param({"num_steps": 3, "recompute": []}, "table of site ids", id="list-for-table"),
        pytest.param({"num_steps": 3, "recompute": {"a": 7}}, "site 'a'", id="number-for-row"),
        pytest.param({"num_steps": 3, "recompute": {"a": ["1", "0", "0"]}}, "site 'a'", id="texts-in-row"),
    ],
)
def test_refused_from_a_file(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        Schedule.from_dict(data)


def test_check_names_unknown_sites_and_known_ones() -> None:
    with pytest.raises(ScheduleError, match=r"names 1 sites .* e\.g\. 'b\.1\.ff'.* the model has 4, e\.g\. b\.0"):
        Schedule(2, {"b.1.ff": "10", "b.0.ff": "10"}).check(GRAPH)


def _ages(bits: list[bool]) -> list[int]:
    """Steps since the last recomputation, at each step."""
    ages: list[int] = []
    for bit in bits:
        ages.append(0 if bit else ages[-1] + 1)
    return ages


@given(schedules(), st.integers(1, 60))
def test_resampling_never_lets_values_grow_older(schedule: Schedule, num_steps: int) -> None:
    new = resample(schedule, num_steps)
    assert new.num_steps == num_steps
    for site in ("a", "b", "c.0.ff"):
        old_age = max(_ages([schedule.recomputes(i, site) for i in range(schedule.num_steps)]))
        new_age = max(_ages([new.recomputes(j, site) for j in range(num_steps)]))
        assert new_age / num_steps < (old_age + 1) / schedule.num_steps


@given(schedules(), st.integers(1, 4))
def test_resampling_to_a_multiple_keeps_the_reused_fraction(schedule: Schedule, factor: int) -> None:
    new = resample(schedule, factor * schedule.num_steps)
    for site in schedule.recompute:
        old_bits = [schedule.recomputes(i, site) for i in range(schedule.num_steps)]
        assert [new.recomputes(j, site) for j in range(new.num_steps)] == [b for b in old_bits for _ in range(factor)]


@given(schedules())
def test_resampling_to_the_same_count_is_the_identity(schedule: Schedule) -> None:
    assert resample(schedule, schedule.num_steps) is schedule


@pytest.mark.parametrize(
    ("row", "num_steps", "expected"),
    [
        pytest.param("10" * 10, 10, "1" * 10, id="every-second-of-20-computes-all-of-10"),
        pytest.param("1101010101", 5, "11111", id="refreshes-between-the-new-steps-are-not-lost"),
        pytest.param("1000100010", 5, "10101", id="every-fourth-of-10-in-5"),
        pytest.param("1010", 8, "11001100", id="doubled"),
        pytest.param("100", 7, "1110000", id="uneven"),
    ],
)
def test_resampled_rows(row: str, num_steps: int, expected: str) -> None:
    new = resample(Schedule(len(row), {"a": row}), num_steps)
    assert "".join("01"[new.recomputes(j, "a")] for j in range(num_steps)) == expected


def test_resampling_to_nothing_is_refused() -> None:
    with pytest.raises(ScheduleError, match="cannot resample to 0 steps"):
        resample(Schedule(3, {}), 0)
