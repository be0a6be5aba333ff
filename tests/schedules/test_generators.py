"""Every generator at small step counts: which sites, at which steps; and what it refuses."""

import functools
import itertools
import json
from typing import Any

import pytest
from tiny import tiny_model

from dit_accel.families import resolve_family
from dit_accel.schedules import GENERATORS, GeneratorSpec, Schedule, ScheduleError, SiteGraph, invariants


@functools.cache
def graph_of(name: str) -> SiteGraph:
    model = tiny_model(name)
    return resolve_family(model).bind(model).graph


def rows(schedule: Schedule) -> dict[str, str]:
    return schedule.to_dict()["recompute"]


def build(name: str, num_steps: int, model: str = "pixart", **params: Any) -> dict[str, str]:
    return rows(GeneratorSpec(name, **params).build(graph_of(model), num_steps))


PIXART_LEAVES = {f"blocks.{i}.{site}" for i in range(3) for site in ("attn1", "attn2", "ff")}


@pytest.mark.parametrize(
    ("n", "row"), [(1, None), (2, "1010101"), (3, "1001001"), (5, "1000010"), (9, "1000000")], ids=lambda v: str(v)
)
def test_every_n(n: int, row: str | None) -> None:
    assert build("every_n", 7, n=n) == ({} if row is None else dict.fromkeys(PIXART_LEAVES, row))


@pytest.mark.parametrize(
    ("n", "power", "row"),
    [(2, 1, "1010101010"), (2, 2, "1110101000"), (3, 1.5, "1100101000"), (1, 3, None)],
    ids=str,
)
def test_front_loaded(n: int, power: float, row: str | None) -> None:
    made = build("front_loaded", 10, n=n, power=power)
    assert made == ({} if row is None else dict.fromkeys(PIXART_LEAVES, row))


def test_front_loaded_computes_as_often_as_every_n_and_earlier() -> None:
    for num_steps, n in itertools.product((7, 20, 28, 50), (2, 3, 5)):
        front = build("front_loaded", num_steps, n=n, power=1.7)["blocks.0.ff"]
        even = build("every_n", num_steps, n=n)["blocks.0.ff"]
        assert front.count("1") == even.count("1")
        places = [[i for i, bit in enumerate(row) if bit == "1"] for row in (front, even)]
        assert all(a <= b for a, b in zip(*places, strict=True))


def test_front_loaded_refuses_a_power_that_is_no_power() -> None:
    with pytest.raises(ScheduleError, match="'power' must be above 0"):
        build("front_loaded", 10, power=0)


def test_every_n_of_some_kinds() -> None:
    assert build("every_n", 4, n=2, kinds=("ff",)) == {f"blocks.{i}.ff": "1010" for i in range(3)}


def test_every_n_covers_the_projections_of_single_blocks() -> None:
    chosen = set(build("every_n", 4, "flux", n=2))
    assert {"single.0.attn", "single.0.proj_mlp", "single.0.proj_out", "blocks.0.ff_context"} <= chosen
    assert not any(site.endswith("norm") for site in chosen)


@pytest.mark.parametrize("power", [0.2, 0.5, 1.0, 1.5, 1.7, 4.0])
def test_front_loaded_has_as_many_full_steps_as_every_n(power: float) -> None:
    for num_steps in range(1, 31):
        for n in range(1, 7):
            made = build("front_loaded", num_steps, n=n, power=power)
            row = made.get("blocks.0.ff", "1" * num_steps)
            assert set(made.values()) <= {row}
            assert row[0] == "1"
            assert row.count("1") == -(-num_steps // n), (num_steps, n)


def test_front_loaded_is_dense_at_the_start() -> None:
    assert build("front_loaded", 12, n=3, power=2.0)["blocks.0.ff"] == "110100010000"
    assert build("front_loaded", 12, n=3, power=1.0) == build("every_n", 12, n=3)
    with pytest.raises(ScheduleError, match="'power' must be above 0, got 0"):
        build("front_loaded", 12, power=0)


def test_t_gate() -> None:
    made = build("t_gate", 10, gate=6, sp_interval=3, fi_interval=2, warmup=1)
    assert made["blocks.0.attn2"] == "1111110000"
    # up to the warm-up all; then every third before the gate, every second after it
    assert made["blocks.0.attn1"] == "1101001010"
    assert set(made) == {f"blocks.{i}.attn{k}" for i in range(3) for k in (1, 2)}


def test_evenly_spaced() -> None:
    made = build("evenly_spaced", 9, num_blocks=1, num_reused=2, kinds=("ff",))
    assert set(made) == {"blocks.1.ff"}
    assert made["blocks.1.ff"].count("0") == 2
    assert made["blocks.1.ff"][0] == "1"
    assert build("evenly_spaced", 9, num_blocks=3, num_reused=0) == {}
    assert all(row == "1000" for row in build("evenly_spaced", 4, num_blocks=9, num_reused=9).values())


def test_block_range() -> None:
    assert build("block_range", 4, n=2) == {"blocks.1": "1010"}
    assert build("block_range", 4, n=4, first=0, last=-1) == dict.fromkeys(
        ["blocks.0", "blocks.1", "blocks.2"], "1000"
    )


def test_model_output() -> None:
    assert build("model_output", 5, n=2) == {"model": "10101"}


def test_custom() -> None:
    made = build("custom", 4, reuse={"blocks.*.ff": [1, 3], "blocks.0.*": [2]})
    assert made["blocks.0.ff"] == "1000"
    assert made["blocks.1.ff"] == "1010"
    assert made["blocks.0.attn1"] == "1101"
    assert build("custom", 4, reuse={}) == {}


def test_invariants_are_the_text_projections() -> None:
    made = rows(invariants(graph_of("pixart"), 3))
    assert set(made) == {"caption_projection"} | {f"blocks.{i}.attn2.to_{p}" for i in range(3) for p in "kv"}
    assert set(made.values()) == {"100"}


@pytest.mark.parametrize(
    ("num_steps", "keys"),
    [
        (20, {0, 1, 2, 3, 5, 10, 15}),
        (50, {0, 1, 2, 3, 5, 10, 15, 25, 35}),
        (10, {0, 1, 2, 3, 5, 7}),
    ],
    ids=["20-as-published", "50-as-published", "10-at-the-same-fractions"],
)
def test_encoder_propagation(num_steps: int, keys: set[int]) -> None:
    made = build("encoder_propagation", num_steps, "sd")
    assert set(made) == {"conv_in", "down_blocks.0", "down_blocks.1", "down_blocks.2", "mid_block"}
    row = "".join("1" if step in keys else "0" for step in range(num_steps))
    assert set(made.values()) == {row}


def test_deepcache_keeps_all_but_the_last_layer() -> None:
    made = build("deepcache", 6, "sd", n=3)
    assert set(made.values()) == {"100100"}
    outer = {site for site in made if site.count(".") <= 1}
    assert outer == {"down_blocks.0", "down_blocks.1", "down_blocks.2", "mid_block", "up_blocks.0", "up_blocks.1"}
    last = {site for site in made if site.startswith("up_blocks.2.")}
    assert last == {f"up_blocks.2.{kind}.{k}" for kind in ("resnets", "attentions") for k in (0, 1)}


def test_deepcache_with_a_wider_branch_computes_more() -> None:
    narrow, wide = build("deepcache", 6, "sd", branch=0), build("deepcache", 6, "sd", branch=1)
    assert set(wide) < set(narrow)
    assert "up_blocks.2.resnets.1" in narrow and "up_blocks.2.resnets.1" not in wide


def test_deepcache_crowds_full_steps_towards_forty_per_cent() -> None:
    row = build("deepcache", 50, "sd", n=5, power=2.0)["mid_block"]
    full = [step for step, bit in enumerate(row) if bit == "1"]
    gaps = [b - a for a, b in itertools.pairwise(full)]
    assert full[0] == 0
    assert min(gaps) < 5 < max(gaps)
    nearest = min(range(len(full) - 1), key=lambda i: abs(full[i] - 20))
    assert gaps[nearest] == min(gaps)


@pytest.mark.parametrize("name", sorted(GENERATORS))
@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_every_generator_makes_schedules_its_model_has_the_sites_of(name: str, num_steps: int) -> None:
    params = {"evenly_spaced": {"num_blocks": 2, "num_reused": 2}, "custom": {"reuse": {}}}.get(name, {})
    spec = GeneratorSpec(name, params)
    graph = graph_of("sd" if name in ("deepcache", "encoder_propagation", "inheritance") else "pixart")
    schedule = spec.build(graph, num_steps)
    schedule.check(graph)
    assert schedule.num_steps == num_steps
    again = json.loads(json.dumps(spec.to_dict()))
    assert GeneratorSpec(again["generator"], again["params"]) == spec
    assert hash(GeneratorSpec(again["generator"], again["params"])) == hash(spec)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("every", {}, "unknown schedule generator 'every'. Did you mean 'every_n'?"),
        ("every_n", {"m": 3}, "generator 'every_n' has no parameter 'm'. It has: n, kinds."),
        ("t_gate", {"gat": 3}, "Did you mean 'gate'?"),
        ("every_n", {"n": 0}, "'n' must be at least 1, got 0"),
        ("every_n", {"n": "3"}, "'n' must be a whole number, got '3'"),
        ("every_n", {"n": 2.5}, "'n' must be a whole number, got 2.5"),
        ("every_n", {"kinds": ["fff"]}, "no site of kind 'fff'; this model has"),
        ("block_range", {"n": 0}, "'n' must be at least 1, got 0"),
        ("t_gate", {"gate": 0}, "'gate' must be at least 1, got 0"),
        ("evenly_spaced", {}, "generator 'evenly_spaced' needs 'num_blocks'"),
        ("evenly_spaced", {"num_blocks": 0, "num_reused": 1}, "'num_blocks' must be at least 1, got 0"),
        ("custom", {"reuse": {"blocks.9.*": [1]}}, "no site matches 'blocks.9.*'; kinds: model, text, block"),
        ("custom", {"reuse": {"blocks.0.ff": [7]}}, "'blocks.0.ff': step 7 cannot be reused in a run of 4 steps"),
        ("custom", {"reuse": {"blocks.0.ff": [0]}}, "step 0 cannot be reused"),
        ("deepcache", {}, "'deepcache' is for UNets; this model has model, text, block"),
        ("encoder_propagation", {}, "'encoder_propagation' is for UNets"),
        ("inheritance", {}, "'inheritance' is for UNets"),
    ],
    ids=lambda value: str(value)[:30].replace("'", ""),
)
def test_refused(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        GeneratorSpec(name, params).build(graph_of("pixart"), 4)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n": 0}, "at least 1, got 0"),
        ({"branch": 3}, "must be 0 to 2"),
        ({"centre": 1}, "without 'power' they do not"),
        ({"centre": 9, "power": 1.4}, "must be a step of the run, 0 to 3, got 9"),
    ],
)
def test_deepcache_refuses(params: dict[str, int], message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        GeneratorSpec("deepcache", params).build(graph_of("sd"), 4)
