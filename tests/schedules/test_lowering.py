"""Lowering against the brute-force oracle, on random graphs and schedules."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Execution, Symbols, reference

from dit_accel.schedules import Schedule, ScheduleError, SiteGraph, SiteInfo, lower
from dit_accel.schedules.lowering import COMPUTE, REUSE, SKIP, STORE


@st.composite
def graphs(draw: st.DrawFn) -> SiteGraph:
    """A random tree in execution order; a site may name as readers what runs after it inside the same parent."""
    size = draw(st.integers(1, 9))
    parents: list[int | None] = [None]
    path = [0]
    for position in range(1, size):
        path = path[: draw(st.integers(1, len(path)))]
        parents.append(path[-1])
        path.append(position)

    def above(position: int | None) -> list[int]:
        return [] if position is None else [position, *above(parents[position])]

    sites = []
    for position in range(size):
        parent = parents[position]
        later = [
            other
            for other in range(position + 1, size)
            if position not in above(other) and parent in above(parents[other])
        ]
        feeds = draw(st.lists(st.sampled_from(later), unique=True, max_size=3)) if later else []
        is_leaf = position not in parents
        auxiliary = bool(feeds) and is_leaf and draw(st.booleans())
        sites.append(
            SiteInfo(
                id=f"s{position}",
                kind="x",
                parent=None if parent is None else f"s{parent}",
                feeds=tuple(f"s{other}" for other in sorted(feeds)),
                auxiliary=auxiliary,
            )
        )
    return SiteGraph(tuple(sites))


@st.composite
def cases(draw: st.DrawFn) -> tuple[SiteGraph, Schedule, dict[str, int], frozenset[int]]:
    """A graph, a schedule, how many values some sites keep, and steps at which the denoiser is not called."""
    graph = draw(graphs())
    num_steps = draw(st.integers(1, 7))
    rows = {
        site.id: draw(st.lists(st.booleans(), min_size=num_steps, max_size=num_steps))
        for site in graph.schedulable
        if draw(st.integers(0, 3))
    }
    depth = {site.id: draw(st.integers(1, 3)) for site in graph.schedulable if draw(st.booleans())}
    absent = draw(st.frozensets(st.integers(1, num_steps), max_size=3)) if draw(st.booleans()) else frozenset()
    return graph, Schedule(num_steps, rows), depth, absent


@settings(max_examples=250, deadline=None)
@given(cases())
def test_random_programs(case: tuple[SiteGraph, Schedule, dict[str, int], frozenset[int]]) -> None:
    graph, schedule, depth, absent = case
    for start in range(schedule.num_steps):
        symbols = Symbols()
        program = lower(schedule, graph, start, depth=depth, absent=absent)
        run = Execution(graph, program, symbols, depth)  # fails on a read of what is skipped, not yet kept, or freed
        assert run.outputs == reference(graph, schedule, start, symbols, depth, absent)
        dead = set(run.reads) - run.needed()
        assert not dead, f"computed for nobody: {sorted(dead)}"
        for offset, held in enumerate(run.held):
            for site in held:
                position = graph.index[site]
                rest = [
                    row.actions[position]
                    for step, row in enumerate(program.rows[offset + 1 :], start + offset + 1)
                    if step not in absent
                ]
                before = rest[: rest.index(REUSE)] if REUSE in rest else None
                assert before is not None, f"{site} is held after step {start + offset} and never read again"
                # What is computed in between pushes it out when it is the last that is kept.
                assert before.count(STORE) + before.count(COMPUTE) < depth.get(site, 1), site
        for row in program.rows:
            stored = [p for p, action in enumerate(row.actions) if action == STORE]
            assert all(not graph.sites[p].auxiliary for p in stored)


@settings(max_examples=100, deadline=None)
@given(graphs(), st.integers(1, 6))
def test_compute_everything_wraps_nothing(graph: SiteGraph, num_steps: int) -> None:
    program = lower(Schedule(num_steps, {}), graph)
    assert program.active == ()
    assert program.distinct_actions == ((COMPUTE,) * len(graph),)


def _block() -> SiteGraph:
    return SiteGraph(
        (
            SiteInfo(id="model", kind="model"),
            SiteInfo(id="b", kind="block", parent="model", block=0),
            SiteInfo(id="b.norm", kind="norm", parent="b", block=0, feeds=("b.attn",), auxiliary=True),
            SiteInfo(id="b.attn", kind="self_attn", parent="b", block=0),
            SiteInfo(id="b.attn.k", kind="text", parent="b.attn", block=0, invariant=True),
            SiteInfo(id="b.mlp", kind="proj_mlp", parent="b", block=0, feeds=("b.out",)),
            SiteInfo(id="b.out", kind="proj_out", parent="b", block=0),
        )
    )


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param(
            {"b.attn": "101"},
            [
                "compute compute compute store compute compute compute",
                "compute compute skip reuse skip compute compute",
                "compute compute compute compute compute compute compute",
            ],
            id="norm-is-skipped-with-its-reader",
        ),
        pytest.param(
            {"b.out": "100"},
            ["compute compute compute compute compute compute store"]
            + ["compute compute compute compute compute skip reuse"] * 2,
            id="unread-projection-is-dropped",
        ),
        pytest.param(
            {"b": "100", "b.attn": "110"},
            ["compute store compute compute compute compute compute"] + ["compute reuse skip skip skip skip skip"] * 2,
            id="inside-a-reused-block-nothing-runs",
        ),
        pytest.param(
            {"b.mlp": "110", "b.out": "101"},
            [
                "compute compute compute compute compute compute store",
                "compute compute compute compute compute store reuse",
                "compute compute compute compute compute reuse compute",
            ],
            id="unread-now-but-read-later",
        ),
        pytest.param({"model": "100"}, ["store" + " compute" * 6] + ["reuse" + " skip" * 6] * 2, id="whole-model"),
    ],
)
def test_known_rows(rows: dict[str, str], expected: list[str]) -> None:
    program = lower(Schedule(3, rows), _block())
    assert [" ".join(row.actions) for row in program.rows] == expected


def test_a_later_start_computes_everything_at_its_first_step() -> None:
    graph = _block()
    program = lower(Schedule(4, {"b.attn": "1000"}), graph, start=2)
    assert program.row(2).actions[graph.index["b.attn"]] == STORE
    assert program.row(3).actions[graph.index["b.attn"]] == REUSE
    assert SKIP not in program.row(2).actions


def test_inside_a_reused_block_nothing_has_to_be_wrapped() -> None:
    graph = _block()
    program = lower(Schedule(4, {"b": "1010"}), graph)
    assert [graph.sites[position].id for position in program.active] == ["b"]


def test_equal_rows_are_one_object() -> None:
    program = lower(Schedule(6, {"b.attn": "101010"}), _block())
    assert program.row(1).actions is program.row(3).actions
    assert len(program.distinct_actions) == 2


@pytest.mark.parametrize("start", [-1, 3])
def test_start_outside_the_schedule(start: int) -> None:
    with pytest.raises(ValueError, match="outside a schedule of 3 steps"):
        lower(Schedule(3, {}), _block(), start)


def test_unknown_site_and_auxiliary_site_are_refused() -> None:
    with pytest.raises(ScheduleError, match=r"1 sites this model does not have.*'b.attm'"):
        lower(Schedule(2, {"b.attm": "10"}), _block())
    with pytest.raises(ScheduleError, match=r"b\.norm"):
        lower(Schedule(2, {"b.norm": "10"}), _block())


def test_a_forecast_keeps_the_last_computations_and_no_more() -> None:
    graph = _block()
    position = graph.index["b.attn"]
    program = lower(Schedule(6, {"b.attn": "111101"}), graph, depth={"b.attn": 2})
    assert [row.actions[position] for row in program.rows] == [COMPUTE, COMPUTE, STORE, STORE, REUSE, COMPUTE]
    assert [step for step, row in enumerate(program.rows) if position in row.frees] == [4]


def test_what_was_to_be_recomputed_at_an_absent_step_is_recomputed_at_the_next() -> None:
    graph = _block()
    position = graph.index["b.attn"]
    program = lower(Schedule(6, {"b.attn": "100100"}), graph, absent={1, 3})
    assert program.absent == {1, 3}
    found = [row.actions[position] for step, row in enumerate(program.rows) if step not in program.absent]
    assert found == [STORE, REUSE, STORE, REUSE]
