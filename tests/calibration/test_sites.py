"""The search over calls and sites: genomes, seeds, what stays and what is found, stopped and gone on with."""

import dataclasses
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quick_calibration import no_networks, quick_pipeline
from tiny import tiny_pipeline

from dit_accel import GeneratorSpec, accelerate_pipeline, load_embedded, remove_acceleration
from dit_accel.calibration import sites_judge
from dit_accel.calibration.choose import Gaps
from dit_accel.calibration.latency import DenoiserTimes, Pricing, SiteTimes
from dit_accel.calibration.sites import calibrate_sites
from dit_accel.calibration.sites_children import crossed, mutated
from dit_accel.calibration.sites_evolve import evolve_sites, hypervolume_of_sites, selected, unbeaten
from dit_accel.calibration.sites_genome import Genome, genome_of, groups_of
from dit_accel.calibration.sites_judge import Prices, SiteJudge, SitePoint, front_of_sites, rungs
from dit_accel.calibration.sites_seeds import seeds
from dit_accel.calibration.sites_surrogate import Surrogate
from dit_accel.errors import ConfigError
from dit_accel.families.targets import find_targets
from dit_accel.pipelines.generation import GenerationSettings
from dit_accel.schedules import Schedule, ScheduleError

STEPS = 8


def graph_of(name: str) -> Any:
    return find_targets(tiny_pipeline(name))[0].layout.graph


def test_what_behaves_alike_is_equal() -> None:
    one = Genome.of((0, 2, 4), STEPS, {"a": [0, 1, 2]}, strength=0.0, depth=3)
    other = Genome.of((4, 2), STEPS, {"a": [2], "b": [3]}, strength=0.5 * 0)
    assert one == other and one.rows == {"a": (2,)} and one.answered == {1, 3, 5, 6, 7}
    assert Genome.of((0, 1), STEPS, strength=1.0) == Genome.of((0, 1), STEPS)
    assert Genome.from_dict(one.to_dict()) == one
    strong = Genome.of((0, 2, 4), STEPS, {"a": [2]}, strength=0.5, depth=2)
    assert Genome.from_dict(strong.to_dict()) == strong != one


@pytest.mark.parametrize("name", ["pixart", "sd", "flux"])
@pytest.mark.parametrize(
    "rule",
    [GeneratorSpec("every_n", n=3), GeneratorSpec("t_gate", gate=3), GeneratorSpec("deepcache", n=2)],
    ids=lambda rule: rule.name,
)
def test_published_rules_are_said_exactly(name: str, rule: GeneratorSpec) -> None:
    graph = graph_of(name)
    groups = groups_of(graph)
    try:
        schedule = rule.build(graph, STEPS)
    except ScheduleError:
        return  # not for this model
    if schedule.is_exact:
        return
    assert genome_of(schedule, groups).schedule(groups) == schedule


def test_a_schedule_that_parts_a_group_cannot_be_said() -> None:
    graph = graph_of("pixart")
    with pytest.raises(ScheduleError, match="the rest of their group"):
        genome_of(Schedule(STEPS, {"blocks.0.attn1": "10" * 4}), groups_of(graph, parts=1))


def test_children_keep_what_must_stay() -> None:
    groups = groups_of(graph_of("pixart"))
    rng = random.Random(0)
    first = genome_of(GeneratorSpec("every_n", n=2).build(graph_of("pixart"), STEPS), groups)
    second = Genome.of((0, 3, 5, 6), STEPS)
    seen = set()
    for _ in range(300):
        child = mutated(rng, crossed(rng, first, second), groups, frozenset((0, 5)))
        assert 0 in child.computed and max(child.computed) < STEPS
        assert child == Genome.from_dict(child.to_dict())
        child.schedule(groups)
        seen.add(child)
    assert len(seen) > 100
    assert {genome.strength for genome in seen} > {0.0} and {len(genome.computed) for genome in seen} > {4, 8}
    assert all(5 in mutated(rng, second, groups, frozenset((0, 5))).computed for _ in range(50))


def point(seconds: float, db: float, prompts: int = 4, computed: tuple[int, ...] = (0, 2)) -> SitePoint:
    return SitePoint(
        genome=Genome.of(computed, STEPS), num_prompts=prompts, seconds=seconds, speedup=10 / seconds, macs_frac=0.5,
        psnr_db=db, worst_db=db, st_lpips=None, error=0.1,
    )  # fmt: skip


def test_the_front_is_of_points_that_all_prompts_judged() -> None:
    points = [point(1, 20), point(2, 19), point(3, 30), point(0.5, 60, prompts=2), point(2, 25)]
    assert [each.seconds for each in front_of_sites(points)] == [1, 2, 3]
    assert [each.score_db for each in front_of_sites(points)] == [20, 25, 30]
    assert front_of_sites([]) == ()
    assert rungs(32) == (8, 16, 32) and rungs(3) == (2, 3) and rungs(2) == (2,)
    assert SitePoint.from_dict(points[0].to_dict()) == points[0]


def test_what_cannot_be_judged_is_told_and_beats_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures that are not finite, and a fit that has no solution."""
    pipe = tiny_pipeline("pixart")
    broken = [
        lambda: torch.full((2, 3, 8, 8), float("nan")),
        lambda: (_ for _ in ()).throw(np.linalg.LinAlgError("x")),
        lambda: (_ for _ in ()).throw(ConfigError("x")),
        lambda: torch.zeros(2, 3, 8, 8),
    ]
    judge = SiteJudge(pipe=pipe, draw=None, reference=None, groups={}, moments=None)  # type: ignore[arg-type]
    prices = Prices(pricing=priced(pipe), groups={})
    for make, words in zip(broken, ("not finite", *2 * ["its fit failed: x"], "scoring it failed"), strict=True):
        monkeypatch.setattr(SiteJudge, "fit", lambda self, genome, count, make=make: ((), make(), 0.1))
        found = prices.point(judge((Genome.of((0, 2), STEPS), 2)))
        assert found.fault is not None and words in found.fault and front_of_sites([found]) == ()
        assert SitePoint.from_dict(found.to_dict()) == found


def priced(pipe: Any) -> Pricing:
    target = find_targets(pipe)[0]
    times = DenoiserTimes(call_s=1.0, answered_s=0.0, sites_s={})
    whole = SiteTimes(device="cpu", evaluations=("t",) * STEPS, calls=1.0, outside_s=0.0, denoisers={"t": times})
    return Pricing(times=whole, graphs={"t": target.layout.graph})


def test_selection_and_hypervolume() -> None:
    pytest.importorskip("deap")
    pytest.importorskip("moocore")
    assert sorted(selected("abcd", [(1, 4), (4, 1), (2, 2), (5, 5)], 3)) == ["a", "b", "c"]
    assert hypervolume_of_sites([point(5, 25)]) == pytest.approx(0.5 * 10)
    assert hypervolume_of_sites([point(5, 25), point(8, 20), point(8, 35)]) == pytest.approx(0.5 * 10 + 0.2 * 10)


def test_half_calls_and_the_ridge_are_genes() -> None:
    half = Genome.of((0, 3), STEPS, conditional=(2, 3, 5), ridge=1e-3)
    assert half.conditional == (2, 5) and half.answered == {1, 2, 4, 5, 6, 7} and half.ridge == 1e-3
    assert Genome.from_dict(half.to_dict()) == half != Genome.of((0, 3), STEPS)
    assert set(Genome.of((0, 3), STEPS).to_dict()) == {"computed", "reused", "strength", "depth"}  # as older ones
    assert half.having(rows={"a": [3]}).conditional == ()  # what sites keep is of both branches
    assert half.having(computed=range(STEPS)) == Genome.of(range(STEPS), STEPS)
    groups = groups_of(graph_of("pixart"))
    rng = random.Random(0)
    seen = [mutated(rng, half, groups, frozenset((0, 4)), halves=True) for _ in range(300)]
    assert {each.conditional for each in seen} >= {(2,), (5,)} and {each.ridge for each in seen} > {1e-3}
    assert any(6 in each.conditional for each in seen) and not any(4 in each.conditional for each in seen)
    assert any(3 in each.conditional for each in seen)  # a whole call that became a half
    assert not any(mutated(rng, Genome.of((0, 3), STEPS), groups, frozenset((0,))).conditional for _ in range(50))
    early, late = (crossed(rng, half, Genome.of((0, 6), STEPS)) for _ in range(2))
    assert {*early.conditional, *late.conditional} <= {2, 5}


def test_half_a_call_costs_half() -> None:
    prices = Prices(pricing=priced(tiny_pipeline("pixart")), groups={})
    assert prices.of(Genome.of((0, 3), STEPS)).seconds == 2
    assert prices.of(Genome.of((0, 3), STEPS, conditional=(2, 5, 6))).seconds == 3.5


def test_no_round_drops_what_leads_and_the_population_is_of_everything() -> None:
    """Few prompts are luck: here they tell nothing, and all prompts that one child beats all others."""
    pytest.importorskip("deap")
    groups = {"a.0": ("a",), "b.0": ("b",)}
    made = np.random.default_rng(0).normal(size=(2 * STEPS + 1, 40)).cumsum(0)
    tables = dict.fromkeys(groups, np.ones((STEPS, STEPS)))
    asked: list[tuple[Genome, int]] = []
    points: dict[Genome, SitePoint] = {}

    def judge(genomes: Any, count: int) -> list[SitePoint]:
        found = []
        for genome in genomes:
            asked.append((genome, count))
            seconds = len(genome.computed) + len(genome.reused) / 100
            db = 20 + 2 * len(genome.computed) + (genome.computed[-1] % 3 if count == 4 else 0)
            fault = "broken" if genome.computed[-1] == 5 else None
            each = point(seconds, 0 if fault else db, count, genome.computed)
            found.append(dataclasses.replace(each, genome=genome, fault=fault))
            if count == 4:
                points[genome] = found[-1]
        return found

    first = [Genome.of(range(n), STEPS) for n in (1, 3, 8)]
    surrogate = Surrogate(Gaps(made @ made.T, [1.0] * STEPS), groups, tables, tables)
    search = evolve_sites(
        first, [Genome.of((0, 5), STEPS)], judge, surrogate, lambda genome: len(genome.computed), groups, (2, 4),
        fixed=frozenset((0,)), population=8, children=6,
    )  # fmt: skip
    for generation, _ in zip(search, range(4), strict=False):
        front = front_of_sites(list(points.values()))
        alive = {each.genome for each in generation.population}
        assert all(each.fault is None for each in generation.population)
        ends = (front[0].genome, front[-1].genome)
        assert {*ends} <= alive and (len(front) > 8 or {each.genome for each in front} <= alive)
    few = [genome for genome, count in asked if count == 2]
    sizes = {len(genome.computed) for genome in few}
    full = {genome for genome, count in asked if count == 4}
    assert len(few) > 6 and len(sizes) > 2 and (Genome.of((0, 5), STEPS), 4) not in asked
    assert len(full) < len({genome for genome, _ in asked})  # and yet some were halved away
    assert unbeaten([(1, 5), (2, 4), (2, 5), (3, 1), (1, 5)]) == [0, 1, 3, 4]


def test_the_surrogate_learns_what_counts() -> None:
    """Errors made up of the answered evaluations and one group: the others turn out to count nothing."""
    groups = {"a.0": ("a",), "b.0": ("b",)}
    rng = np.random.default_rng(0)
    made = rng.normal(size=(2 * STEPS + 1, 40)).cumsum(0)
    table = np.abs(np.subtract.outer(np.arange(STEPS), np.arange(STEPS))) / STEPS
    tables = dict.fromkeys(groups, table)
    surrogate = Surrogate(Gaps(made @ made.T, [1.0] * STEPS), groups, tables, tables)
    genomes = [
        Genome.of(
            (0, *rng.choice(range(1, STEPS), 4, replace=False)), STEPS, {n: rng.choice(STEPS, 3) for n in groups}
        )
        for _ in range(60)
    ]
    truth = np.array([0.5, 2000.0, 0.0])
    errors = [float(surrogate.parts(genome) @ truth) + 1e-6 for genome in genomes]
    surrogate.learn(genomes[:40], errors[:40])
    guessed = [surrogate(genome) for genome in genomes[40:]]
    assert np.corrcoef(np.log(guessed), np.log(errors[40:]))[0, 1] > 0.99
    assert surrogate.factors[2] < 0.05 * surrogate.factors[1]


def test_seeds_are_the_solvers_plans_and_the_rivals() -> None:
    graph = graph_of("pixart")
    made = np.random.default_rng(0).normal(size=(2 * STEPS + 1, 40)).cumsum(0)
    found = seeds(Gaps(made @ made.T, [1.0] * STEPS), graph, groups_of(graph), sizes=(3, 5))
    assert {"plain", "FORA 2", "T-GATE", "trajectory 3 of 8", "trajectory by theory"} <= {*found}
    inside = found["trajectory 5 of 8, T-GATE inside"]
    assert inside.reused and inside.computed == found["trajectory 5 of 8"].computed
    assert len({*found.values()}) == len(found)
    assert "DeepCache 2" not in found and "DeepCache 2" in seeds(
        Gaps(made @ made.T, [1.0] * STEPS), graph_of("sd"), groups_of(graph_of("sd")), sizes=(3,)
    )


@contextmanager
def elsewhere(errand: Any, judge: Any) -> Iterator[Any]:
    """Another process that maps the folder, is ready last first, and dies over one candidate."""
    there, spoilt = errand.judge_on(quick_pipeline()), []

    def judge_all(batch: Any) -> Iterator[Any]:
        for task in reversed(batch):
            if not spoilt and task[1] == 2 and task[0].reused:
                spoilt.append(task)
                yield errand.read(json.loads(json.dumps(errand.lost(task, "died").to_plain())))
            else:
                yield errand.read(json.loads(json.dumps(there(task).to_plain())))

    yield judge_all


def quick_sites(folder: Path, **more: Any) -> Any:
    return calibrate_sites(
        quick_pipeline(),
        folder,
        model="tiny",
        settings=GenerationSettings(num_inference_steps=5),
        prompts=("a red apple", "an owl", "a bee"),
        generations=1,
        sizes=(3,),
        population=4,
        children=2,
        clock=iter(range(10**9)).__next__,
        **more,
    )


def test_wherever_candidates_are_judged_the_results_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With half calls among the actions; what kills a hand is told, and is no part of the search."""
    pytest.importorskip("deap")
    monkeypatch.setattr(sites_judge, "available_perceptual", no_networks)
    here = quick_sites(tmp_path / "here", branches=True)
    there = quick_sites(tmp_path / "there", branches=True, spread=elsewhere)
    assert [(point.genome, point.num_prompts) for point in there.points][: len(here.seeds)] == [
        (point.genome, point.num_prompts) for point in here.points
    ][: len(here.seeds)]
    mine = {(point.genome, point.num_prompts): point for point in here.points}
    same = [mine[key] == point for point in there.points if (key := (point.genome, point.num_prompts)) in mine]
    lost = [point for point in there.points if point.fault == "died"]
    assert len(lost) <= 1 and same.count(False) == len(lost) and lost == list(there.skipped)
    again = quick_sites(tmp_path / "there", branches=True)
    assert again.points == there.points and again.hypervolumes == there.hypervolumes
    with pytest.raises(ConfigError, match="a search over sites of something else"):
        quick_sites(tmp_path / "here")


@pytest.fixture(scope="module")
def pixart() -> Any:
    pipe = load_embedded("emoji-pixart")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def searched(pipe: Any, folder: Path, **more: Any) -> Any:
    return calibrate_sites(
        pipe,
        folder,
        model="emoji-pixart",
        settings=GenerationSettings(num_inference_steps=5),
        num_prompts=2,
        generations=1,
        sizes=(3,),
        population=6,
        children=2,
        clock=iter(range(10**9)).__next__,
        **more,
    )


@pytest.mark.slow
def test_stopped_and_called_again_ends_as_if_never_stopped(pixart: Any, tmp_path: Path) -> None:
    """And what it began with is not beaten by its front; the plan of a point does what the point says."""
    pytest.importorskip("deap")

    class Stopped(Exception):
        pass

    def stop(what: str, left_s: float, calibration: Any) -> None:
        if len(calibration.points) == 4:
            raise Stopped

    with pytest.raises(Stopped):
        searched(pixart, tmp_path / "parts", on_progress=stop)
    parts = searched(pixart, tmp_path / "parts")
    again = searched(pixart, tmp_path / "parts")
    assert again.points == parts.points and parts.generations == 1
    assert len(parts.hypervolumes) == 2 and parts.hypervolumes[1] >= parts.hypervolumes[0]
    judged = {each.genome: each for each in parts.points}
    for name, genome in parts.seeds.items():
        if not name.endswith(" inside"):
            seed = judged[genome]
            assert any(p.seconds <= seed.seconds and p.score_db >= seed.score_db for p in parts.front), name
    both = next(each for each in parts.points if each.genome.reused and each.genome.answered)
    accelerate_pipeline(pixart, parts.plan(both))
    remove_acceleration(pixart)
    with pytest.raises(ConfigError, match="a search over sites of something else"):
        searched(pixart, tmp_path / "parts", seed=1)
