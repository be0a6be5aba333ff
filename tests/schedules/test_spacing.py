"""Where full steps stand: as many as asked for, where the rule says; and what is refused."""

import itertools

import pytest

from dit_accel.schedules import ScheduleError
from dit_accel.schedules.spacing import MODES, crowded, quadratic, spaced


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_as_many_steps_as_asked_for_or_fewer_that_coincide(mode: str) -> None:
    for num_steps, n in itertools.product((5, 20, 50), (2, 3, 5)):
        steps, count = spaced(mode, num_steps, n, 1.5), -(-num_steps // n)
        assert steps[0] == 0 and list(steps) == sorted(set(steps)) and steps[-1] < num_steps
        assert len(steps) == count or (mode == "middle" and abs(len(steps) - count) <= 1)


def test_modes_crowd_where_they_say() -> None:
    places = {mode: sum(spaced(mode, 100, 5, 2.0)) for mode in MODES}
    assert places["early"] < places["uniform"] < places["late"]
    middle = spaced("middle", 100, 5, 2.0)
    gaps = {step: following - step for step, following in itertools.pairwise(middle)}
    assert min(gaps[step] for step in gaps if 40 <= step <= 60) < 5 < max(gaps.values())


@pytest.mark.parametrize("mode", ["uniform", "early", "late"])
def test_a_power_of_one_is_even(mode: str) -> None:
    assert spaced(mode, 20, 4, 1.0) == (0, 4, 8, 12, 16)


# What the authors' function returns for these arguments, evaluated with numpy.
@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ((50, 10, 15, 1.4), (0, 5, 9, 13, 17, 21, 26, 31, 37, 43)),
        ((50, 5, 15, 1.4), (0, 9, 17, 26, 37)),
        ((20, 7, 6, 1.4), (0, 3, 5, 7, 10, 13, 16)),
        ((50, 13, 20, 1.2), (0, 5, 8, 12, 16, 19, 21, 25, 29, 33, 37, 41, 45)),
    ],
    ids=str,
)
def test_quadratic_is_that_of_the_authors(arguments: tuple[int, int, int, float], steps: tuple[int, ...]) -> None:
    assert quadratic(*arguments) == steps


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: crowded(10, 2, 0.0), "'power' must be above 0"),
        (lambda: spaced("even", 10, 2, 1.0), "'mode' must be one of uniform, early, late, middle, got 'even'"),
        (lambda: spaced("early", 10, 2, 0.5), "'power' must be at least 1"),
        (lambda: quadratic(10, 2, 10, 1.4), "'centre' must be a step of the run, 0 to 9, got 10"),
        (lambda: quadratic(10, 10, 8, 1.4), "no power from 1.4 down to 1 gives 10 different steps"),
    ],
)
def test_refused(make, message: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        make()
    assert message in str(caught.value)
