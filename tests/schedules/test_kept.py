"""Which steps a reuse reads: as the lowering has it; Taylor weights: exact on polynomials; rules of computed steps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dit_accel.schedules import Schedule, SiteGraph, SiteInfo, lower
from dit_accel.schedules.kept import kept_steps, spread, taylor_weights
from dit_accel.schedules.lowering import COMPUTE, REUSE, STORE

GRAPH = SiteGraph((SiteInfo(id="model", kind="model"), SiteInfo(id="a", kind="ff", parent="model")))


@given(
    st.lists(st.booleans(), min_size=2, max_size=10),
    st.integers(1, 3),
    st.frozensets(st.integers(1, 9), max_size=5),
)
def test_they_are_what_the_lowering_keeps(row: list[bool], depth: int, absent: frozenset[int]) -> None:
    steps = len(row)
    program = lower(Schedule(steps, {"a": row}), GRAPH, depth={"a": depth}, absent=absent)
    computed: list[int] = []
    for step, kept in enumerate(kept_steps((True, *row[1:]), depth, absent)):
        action = program.row(step).actions[1]
        if step in absent:
            assert kept is None
        elif action == REUSE:
            assert kept == tuple(reversed(computed[-depth:]))
        else:
            assert kept is None and action in (COMPUTE, STORE)
            computed.append(step)


@pytest.mark.parametrize(("nodes", "step"), [((4,), 6), ((4, 2), 7), ((5, 4), 6), ((6, 4, 2), 7)])
def test_taylor_is_exact_on_what_it_assumes(nodes: tuple[int, ...], step: int) -> None:
    """A constant and a line; of a parabola the derivatives are backward differences, so only the second is exact."""
    weights = taylor_weights(nodes, step)
    assert sum(weights) == pytest.approx(1.0)
    if len(nodes) > 1:
        assert sum(w * (3 * n - 1) for w, n in zip(weights, nodes, strict=True)) == pytest.approx(3 * step - 1)
    if len(nodes) == 3:
        now, h, k = nodes[0], nodes[0] - nodes[1], step - nodes[0]
        first, second = (now**2 - (now - h) ** 2) / h, 2.0
        found = sum(w * n**2 for w, n in zip(weights, nodes, strict=True))
        assert found == pytest.approx(now**2 + first * k + second * k**2 / 2)


def test_a_rule_of_the_computed_steps_is_one_of_all() -> None:
    every_second = Schedule(4, {"a": "1010"})
    whole = spread(every_second, (0, 3, 4, 7), 9)
    absent = {1, 2, 5, 6, 8}
    assert kept_steps(whole.recompute["a"], 1, absent) == (None, None, None, (0,), None, None, None, (4,), None)
    with pytest.raises(ValueError, match="cannot be spread"):
        spread(every_second, (0, 1), 9)
    with pytest.raises(ValueError, match="cannot be spread"):
        spread(every_second, (1, 3, 4, 7), 9)
