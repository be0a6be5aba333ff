"""Interleaved timing: order, warm-up, contexts, and that it measures time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dit_accel.errors import ConfigError
from dit_accel.evaluation.compare.timing import time_interleaved


def test_each_round_runs_all_in_an_order_of_its_own() -> None:
    order: list[str] = []
    runs = {name: lambda name=name: order.append(name) for name in "abc"}
    samples = time_interleaved(runs, repeats=8, warmup=1)
    warmup, *rounds = ("".join(order[i : i + 3]) for i in range(0, 27, 3))
    assert warmup == "abc"
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert len(set(rounds)) > 1
    first, order[:] = list(order), []
    time_interleaved(runs, repeats=8, warmup=1)
    assert order == first, "the order is seeded"
    assert {name: len(taken) for name, taken in samples.items()} == {"a": 8, "b": 8, "c": 8}


def test_context_is_entered_for_each_run_and_not_timed() -> None:
    events: list[str] = []

    @contextmanager
    def around(name: str) -> Iterator[None]:
        time.sleep(0.05)
        events.append(f"enter {name}")
        yield
        events.append(f"leave {name}")

    samples = time_interleaved({"a": lambda: events.append("run")}, repeats=2, warmup=1, around=around)
    assert events == ["enter a", "run", "leave a"] * 3
    assert max(samples["a"]) < 0.05


def test_it_measures_time() -> None:
    samples = time_interleaved({"short": lambda: time.sleep(0.01), "long": lambda: time.sleep(0.05)}, repeats=3)
    assert min(samples["short"]) >= 0.01
    assert min(samples["long"]) >= 0.05
    assert min(samples["short"]) < min(samples["long"])


@pytest.mark.parametrize(("runs", "repeats", "warmup"), [({}, 1, 0), ({"a": print}, 0, 0), ({"a": print}, 1, -1)])
def test_nothing_to_time_is_refused(runs: dict, repeats: int, warmup: int) -> None:
    with pytest.raises(ConfigError, match="something to run"):
        time_interleaved(runs, repeats=repeats, warmup=warmup)
