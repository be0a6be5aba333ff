"""Candidates judged in any number of places: the same results; who dies over one is replaced."""

import json
import os
import subprocess
import sys
import types
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from quick_calibration import (
    doomed_pipeline,
    files_of,
    no_networks,
    quick,
    worker_pipeline,
)

from dit_accel.calibration import judging
from dit_accel.calibration.judging import Verdict
from dit_accel.calibration.processes import on_processes
from dit_accel.calibration.spread import ATTEMPTS, Crew, Errand, HandLostError
from dit_accel.errors import DitAccelError, MissingDependencyError
from dit_accel.pipelines.generation import GenerationSettings

pytest.importorskip("deap")
pytestmark = pytest.mark.usefixtures("without_networks")

ROOT = Path(__file__).resolve().parents[2]
ERRAND = Errand(prompts=("a",), settings=GenerationSettings(), recording=Path("elsewhere"))


@pytest.fixture(scope="module")
def whole(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibration in this process."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "available_perceptual", no_networks)
        quick(pipe, folder)
    return folder


class Puppet:
    """A hand without a process; dies as it is told to."""

    hired: list["Puppet"] = []  # noqa: RUF012

    def __init__(self, dies: Callable[["Puppet", tuple[int, ...], str], bool]) -> None:
        self.dies = dies
        self.seen: list[tuple[int, ...]] = []
        self.dismissed = False
        Puppet.hired.append(self)

    def give(self, steps: tuple[int, ...]) -> None:
        self.seen.append(steps)
        if self.dies(self, steps, "give"):
            raise HandLostError("gone")

    def take(self) -> Verdict:
        if self.dies(self, self.seen[-1], "take"):
            raise HandLostError("killed by signal 9")
        return Verdict(computed=self.seen[-1], why="seen")

    def dismiss(self) -> None:
        self.dismissed = True


def crew(dies: Any = lambda hand, steps, when: False, count: int = 2, last_first: bool = False) -> Crew:
    def ready(hands: Sequence[Any]) -> Sequence[Any]:
        return [hands[-1]] if last_first else [hands[0]]

    Puppet.hired = []
    return Crew(lambda: Puppet(dies), ready, count, ERRAND.lost)


BATCH = [(0,), (0, 1), (0, 2), (0, 3), (0, 4)]


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("last_first", [False, True])
def test_everything_is_judged_once_by_as_many_as_there_are(count: int, last_first: bool) -> None:
    team = crew(count=count, last_first=last_first)
    for _ in range(2):  # hands stay for the next batch
        assert sorted(verdict.computed for verdict in team.map(BATCH)) == BATCH
    assert len(Puppet.hired) == min(count, len(BATCH))
    team.dismiss()
    assert all(hand.dismissed for hand in Puppet.hired)


@pytest.mark.parametrize("when", ["give", "take"])
def test_who_dies_is_replaced_and_the_candidate_judged_again(when: str) -> None:
    died: list[Puppet] = []

    def dies(hand: Puppet, steps: tuple[int, ...], now: str) -> bool:
        if now != when or steps != (0, 2) or len(died) >= ATTEMPTS - 1:
            return False
        died.append(hand)
        return True

    verdicts = list(crew(dies).map(BATCH))
    assert sorted(verdict.computed for verdict in verdicts) == BATCH
    assert all(verdict.why == "seen" for verdict in verdicts)
    assert all(hand.dismissed for hand in died) and len(Puppet.hired) == 2 + len(died)


def test_what_kills_everyone_is_skipped() -> None:
    verdicts = {
        verdict.computed: verdict.why
        for verdict in crew(lambda hand, steps, when: steps == (0, 2) and when == "take").map(BATCH)
    }
    assert sorted(verdicts) == BATCH and sum(hand.dismissed for hand in Puppet.hired) == ATTEMPTS
    assert verdicts[(0, 2)] == "3 processes died over it; the last one: killed by signal 9"


def test_a_verdict_travels_as_json(pipe: Any, tmp_path: Path) -> None:
    seen: list[Verdict] = []

    def listen(errand: Errand, judge: Any) -> Any:
        class Spread:
            def __enter__(self) -> Any:
                return lambda batch: (seen.append(judge(steps)) or seen[-1] for steps in batch)

            def __exit__(self, *error: Any) -> None:
                pass

        return Spread()

    quick(pipe, tmp_path, generations=0, spread=listen)
    for verdict in (*seen, Verdict(computed=(0, 1), why="its pictures are not finite")):
        assert Verdict.from_plain(json.loads(json.dumps(verdict.to_plain()))) == verdict


def test_a_worker_without_the_recording_says_what_to_do(pipe: Any, tmp_path: Path) -> None:
    errand = Errand(prompts=("a",), settings=GenerationSettings(), recording=tmp_path / "elsewhere")
    with pytest.raises(DitAccelError, match=r"no recording at '.*elsewhere'.*a disk that all machines see"):
        errand.judge_on(pipe)


@pytest.mark.slow
def test_processes_find_the_same_although_one_is_killed(pipe: Any, whole: Path, tmp_path: Path) -> None:
    load = partial(doomed_pipeline, tmp_path / "died")
    quick(pipe, tmp_path / "found", spread=on_processes(load, 2))
    assert (tmp_path / "died").exists()
    assert files_of(tmp_path / "found") == files_of(whole)


def broken_pipeline() -> Any:
    raise OSError("no such model on this machine")


@pytest.mark.slow
def test_an_error_in_a_process_is_the_leaders(pipe: Any, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no such model on this machine"):
        quick(pipe, tmp_path, spread=on_processes(broken_pipeline, 1))


class RayActorError(Exception):
    pass


class RayTaskError(Exception):
    cause: Exception | None = None


def stand_in_for_ray(deaths: list[int]) -> Any:
    """What of Ray is used, in this process; the calls numbered in ``deaths`` find their actor dead."""
    ray: Any = types.ModuleType("ray")
    ray.exceptions = types.SimpleNamespace(RayActorError=RayActorError, RayTaskError=RayTaskError)
    ray.killed, ray.calls = [], 0
    ray.init = lambda **given: None
    ray.kill = ray.killed.append
    ray.wait = lambda futures, num_returns: (list(futures[-1:]), list(futures[:-1]))

    class Method:
        def __init__(self, bound: Any) -> None:
            self.bound = bound

        def remote(self, *given: Any) -> Any:
            ray.calls += 1
            number = ray.calls

            def future() -> Any:
                if number in deaths:
                    raise RayActorError("The actor died:\n its node was lost")
                return self.bound(*given)

            return future

    class Remote:
        def __init__(self, kind: Any) -> None:
            self.kind = kind

        def remote(self, *given: Any) -> Any:
            own = self.kind(*given)
            return types.SimpleNamespace(judge=Method(own.judge))

    ray.get = lambda future: future()
    ray.remote = lambda **resources: lambda kind: Remote(kind)
    return ray


def test_on_ray_it_finds_the_same_although_actors_die(
    pipe: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dit_accel.calibration.on_ray import on_ray

    ray = stand_in_for_ray(deaths=[2, 5])
    monkeypatch.setitem(sys.modules, "ray", ray)
    quick(pipe, tmp_path, spread=on_ray(worker_pipeline, 3))
    assert files_of(tmp_path) == files_of(whole)
    judged = json.loads((whole / "judged.json").read_text())["points"]
    assert ray.calls == len(judged) + 2 and len(ray.killed) >= 2 + 2


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from dit_accel.calibration.on_ray import on_ray

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"dit-accel\[ray\]"):
        on_ray(worker_pipeline, 2)


@pytest.mark.slow
def test_ranks_of_a_launcher_find_the_same(whole: Path, tmp_path: Path) -> None:
    """By torchrun, which `accelerate launch` stands on."""
    paths = (ROOT, ROOT / "tests", ROOT / "tests" / "passes", Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    script = Path(__file__).with_name("quick_calibration.py")
    launch = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    command = [*launch, str(script), str(tmp_path / "found")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "rank 1 judged 5"
    assert files_of(tmp_path / "found") == files_of(whole)
