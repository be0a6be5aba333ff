"""The search over calls and sites: genomes, seeds, what stays and what is found, stopped and gone on with."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_pipeline

from dit_accel import GeneratorSpec, accelerate_pipeline, load_embedded, remove_acceleration
from dit_accel.calibration.choose import Gaps
from dit_accel.calibration.latency import DenoiserTimes, Pricing, SiteTimes
from dit_accel.calibration.sites import calibrate_sites
from dit_accel.calibration.sites_evolve import hypervolume_of_sites, selected
from dit_accel.calibration.sites_genome import Genome, crossed, genome_of, groups_of, mutated
from dit_accel.calibration.sites_judge import SiteJudge, SitePoint, front_of_sites, rungs
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
    ]
    judge = SiteJudge(pipe=pipe, draw=None, reference=None, groups={}, moments=None, pricing=priced(pipe), plain_s=1.0)  # type: ignore[arg-type]
    for make, words in zip(broken, ("not finite", "its fit failed: x"), strict=True):
        monkeypatch.setattr(SiteJudge, "fit", lambda self, genome, count, make=make: ((), make(), 0.1))
        found = judge(Genome.of((0, 2), STEPS), 2)
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
