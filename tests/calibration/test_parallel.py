"""Which way of sharing is best: the model of the link by hand, what is refused, and what is said."""

import json
from typing import Any

import pytest
from tiny import tiny_call, tiny_pipeline

from dit_accel import PatchParallelConfig, accelerate_pipeline
from dit_accel.calibration.parallel import DATA, predict, verdict
from dit_accel.calibration.parallel_ways import Measured, Way, measure
from dit_accel.errors import ConfigError
from dit_accel.passes.patch_parallel.apply import parallel_of
from dit_accel.passes.patch_parallel.launch import run_on_ranks
from dit_accel.passes.patch_parallel.simulate import Evaluation, Link, Operation, repeated, simulate

MS = 1e-3
LINK = Link(gb_per_s=1.0, latency_us=1000.0)  # a millisecond, and a MB in another


def operation(*, late: bool, layer: str = "a", hops: int = 1) -> Operation:
    return Operation(layer=layer, sent=10**6, hops=hops, late=late)


def evaluation(compute_ms: float, *operations: Operation) -> Evaluation:
    return Evaluation(compute_s=compute_ms * MS, operations=operations)


def test_what_is_waited_for_adds_up() -> None:
    run = [evaluation(6, operation(late=False), operation(late=False, layer="b", hops=3))] * 2
    found = simulate(run, LINK)
    assert found.total_s == pytest.approx(2 * (6 + 2 + 4) * MS)
    assert found.waited_s == pytest.approx(found.link_s) == pytest.approx(12 * MS)
    assert found.hidden_frac == pytest.approx(0)


def test_what_is_late_is_hidden_as_far_as_there_is_time() -> None:
    calm = simulate([evaluation(6, operation(late=True), operation(late=True, layer="b"))] * 4, LINK)
    assert calm.total_s == pytest.approx(24 * MS) and calm.hidden_frac == 1
    # One operation of 2 ms an evaluation of 1 ms: the first is posted after half a millisecond and waited for next.
    busy = simulate([evaluation(1, operation(late=True))] * 3, LINK)
    assert busy.total_s == pytest.approx((0.5 + 2 + 2 + 0.5) * MS)
    assert busy.waited_s == pytest.approx(2 * MS)


def test_the_link_carries_one_thing_at_a_time() -> None:
    """The output waits behind what was sent late."""
    found = simulate([evaluation(3, operation(late=True), operation(late=False, layer="output"))], LINK)
    assert found.total_s == pytest.approx((1 + 2 + 2 + 1) * MS)
    assert found.waited_s == pytest.approx(3 * MS)


def test_warm_up_comes_first() -> None:
    first, later = evaluation(1), evaluation(2)
    assert repeated(first, later, evaluations=3, warm=2) == [first, first, later]
    assert repeated(first, None, evaluations=2, warm=1) == [first, first]


@pytest.mark.parametrize("wrong", ["0", "-1", "fast", "inf", "nan"])
def test_links(wrong: str) -> None:
    assert Link.named("pcie4").gb_per_s == 20 and Link.named("12.5").gb_per_s == 12.5
    with pytest.raises(ConfigError, match="bandwidth"):
        Link.named(wrong)


def _measured() -> Measured:
    gather, late = (
        Operation(layer="a", sent=10**8, hops=1, late=False),
        Operation(layer="a", sent=10**8, hops=1, late=True),
    )
    return Measured(
        ranks=2,
        plain_s=100 * MS,
        rest_s=50 * MS,
        ways=(
            Way(name="guidance", exact=True, waiting=evaluation(60, operation(late=False))),
            Way(name="patches, sync", exact=True, waiting=evaluation(52, gather)),
            Way(name="patches, stale", exact=False, waiting=evaluation(52, gather), steady=evaluation(52, late)),
        ),
        refused={"sequence (Ulysses)": "no plan"},
    )


def test_the_link_decides() -> None:
    slow, refused = predict(_measured(), Link(gb_per_s=1.0), evaluations=20, warmup=4)
    assert [each.name for each in slow] == ["guidance", DATA, "patches, stale", "patches, sync"]
    assert refused == {"sequence (Ulysses)": "no plan"}
    said = " ".join(verdict(slow))
    assert "exactly: guidance, 1.6" in said and "no reason to give up exactness" in said
    quick, _ = predict(_measured(), Link(gb_per_s=100.0), evaluations=20, warmup=4)
    assert [each.name for each in quick] == ["patches, stale", "patches, sync", "guidance", DATA]
    said = " ".join(verdict(quick))
    assert "exactly: patches, sync" in said and "patches, stale would be" in said and "For many pictures: data" in said


def test_few_evaluations_rule_stale_ways_out() -> None:
    predictions, refused = predict(_measured(), LINK, evaluations=4, warmup=1)
    assert "patches, stale" not in [each.name for each in predictions]
    assert "too far apart" in refused["patches, stale"]


def test_no_way_is_better_than_waiting() -> None:
    measured = _measured()
    heavy = Measured(ranks=2, plain_s=10 * MS, rest_s=0, ways=measured.ways[1:2])
    said = " ".join(verdict(predict(heavy, LINK, evaluations=20, warmup=4)[0]))
    assert "no exact way is quicker than a single rank" in said and "computes 520% of it" in said


def test_what_is_measured_of_a_live_pipeline() -> None:
    """Four ranks of a tiny PixArt and FLUX: which ways there are, and that what they send is what formulas say."""
    ways = _ways("flux", 2)
    assert set(ways) == {"patches, sync", "patches, stale", "patches, partial", "sequence (Ulysses)"}
    sync, sequence = ways["patches, sync"].waiting, ways["sequence (Ulysses)"].waiting
    assert _sent(sync) == _sent(sequence), "2 / N of what is gathered, at N = 2"
    steady = ways["patches, partial"].steady
    assert steady is not None and _sent(steady) < _sent(sync)
    assert all(part.late for part in steady.operations if not part.layer.endswith("output"))
    both = _ways("pixart", 4)
    assert _sent(both["guidance, then patches, sync"].waiting) * 3 == _sent(both["patches, sync"].waiting)


def test_warm_up_is_that_of_a_real_run() -> None:
    """Of Wan, which calls twice: only in the first evaluation does every rank compute both branches."""
    way = _ways("wan", 4)["guidance, then patches, stale"]
    assert way.steady is not None
    by_rank = run_on_ranks(_bytes_by_step, 4, timeout_s=600.0)
    first, second, third, *later = map(max, zip(*by_rank, strict=True))
    assert _all_sent(way.waiting) == second == third < first
    assert _all_sent(way.steady) == later[0]


def _bytes_by_step(rank: int, size: int) -> list[int]:
    pipe = tiny_pipeline("wan")
    accelerate_pipeline(pipe, PatchParallelConfig(mode="stale", guidance="on", warmup=3), strict=True)
    pipe(**tiny_call("wan", num_inference_steps=6))
    parallel = parallel_of(pipe._dit_accel.runtimes[0])
    assert parallel is not None
    phases = ("warmup", "steady", "output", "guidance")
    return [parallel.groups.traffic.of(step=step, phase=phases).sent for step in range(6)]


def _all_sent(each: Evaluation) -> int:
    return sum(part.sent for part in each.operations)


def _ways(name: str, ranks: int) -> dict[str, Way]:
    pipe = tiny_pipeline(name)
    found = measure(pipe, lambda steps: pipe(**tiny_call(name, num_inference_steps=steps)), ranks)
    assert found.plain_s > 0 and found.rest_s > 0
    return {way.name: way for way in found.ways}


def _sent(each: Evaluation) -> int:
    """Without the pair's exchange of outputs."""
    return sum(part.sent for part in each.operations if not part.layer.startswith("guidance"))


def test_plain_data(tmp_path: Any) -> None:
    from dataclasses import asdict

    predictions, _ = predict(_measured(), LINK, evaluations=20, warmup=4)
    assert json.loads(json.dumps([asdict(each) for each in predictions]))
