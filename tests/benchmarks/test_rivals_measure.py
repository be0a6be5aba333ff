"""A measurement can be stopped anywhere and resumed to an equal report; nobody is dropped without a word."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rivals.arena import ArenaOptions, PipelineArena, scheduler_for
from rivals.assemble import assemble
from rivals.base import Rival, Setting, Task
from rivals.measure import Limits, Measurement
from rivals.registry import select_rivals
from rivals.shapes import ShapeArena
from rivals.store import Store
from tiny_pipelines import tiny_pipeline
from tiny_text import save_tiny_text_pipeline

from dit_accel.errors import ConfigError
from dit_accel.evaluation.reports.report import Report

STEPS = 7
OPTIONS = ArenaOptions(images=3, batch_size=2, num_timed=2, calibration_images=2)


@pytest.fixture(scope="module", autouse=True)
def _no_networks() -> Iterator[None]:
    """Perceptual distances are tested elsewhere, and slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rivals.measure.available_perceptual", lambda: ())
        yield


class Broken(Rival):
    """Fails while it runs."""

    name = "Broken"
    method = made_by = advice = "nobody"

    def supports(self, pipe: Any) -> str | None:
        return None

    def settings(self, pipe: Any, task: Task) -> tuple[Setting, ...]:
        return (Setting(name="Broken 1", rival=self.name, advised=True),)

    def attach(self, pipe: Any, setting: Setting, task: Task) -> None:
        def fail(*args: Any, **kwargs: Any) -> None:
            raise ValueError("no such luck")

        pipe.transformer.transformer_blocks[0].forward = fail


class Missing(Broken):
    """Has nothing to act on."""

    name = "Missing"

    def supports(self, pipe: Any) -> str | None:
        return "it needs a UNet"


class Idle(Broken):
    """Does nothing, and does not say so."""

    name = "Idle"

    def settings(self, pipe: Any, task: Task) -> tuple[Setting, ...]:
        return (Setting(name="Idle 1", rival=self.name, advised=True),)

    def attach(self, pipe: Any, setting: Setting, task: Task) -> None:
        pass


class Stopped(Exception):
    """The process is killed."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved text-to-image pipeline."""
    return save_tiny_text_pipeline(tmp_path_factory.mktemp("model"))


def _measurement(model: Path, folder: Path, stop_after: int | None = None) -> Measurement:
    arena = PipelineArena(str(model), "own", STEPS, OPTIONS)
    rivals = [*select_rivals(["FORA", "TeaCache"]), Broken(), Missing(), Idle()]
    seconds = itertools.count(1)

    def timer(run: Callable[[], object], denoisers: Sequence[torch.nn.Module]) -> tuple[float, float]:
        run()
        return 1.0, 0.5 + 0 * next(seconds)

    lines = itertools.count(1)

    def say(line: str) -> None:
        if stop_after is not None and next(lines) > stop_after:
            raise Stopped

    store = Store(folder, {"images": OPTIONS.images})
    return Measurement(arena, rivals, store, Limits(rounds=3, quick=True), say=say, timer=timer)


def _report(measurement: Measurement) -> Report:
    return assemble(measurement, measurement.run(), ("test",))


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A report that was measured in one go."""
    return _report(_measurement(model, tmp_path_factory.mktemp("whole")))


def _comparable(report: Report) -> dict[str, Any]:
    return {**report.model_dump(), "created_utc": "", "environment": None}


@pytest.mark.parametrize("stop_after", [1, 4, 9, 11])
def test_resumed_report_is_equal(model: Path, whole: Report, tmp_path: Path, stop_after: int) -> None:
    with pytest.raises(Stopped):
        _measurement(model, tmp_path, stop_after).run()
    assert _comparable(_report(_measurement(model, tmp_path))) == _comparable(whole)


def test_a_finished_measurement_runs_nothing(model: Path, whole: Report, tmp_path: Path) -> None:
    first = _report(_measurement(model, tmp_path))
    again = _measurement(model, tmp_path)
    again.arena.make = None  # type: ignore[method-assign,assignment]
    assert _comparable(_report(again)) == _comparable(first) == _comparable(whole)


def test_everyone_is_accounted_for(whole: Report, tmp_path: Path) -> None:
    names = [variant.name for variant in whole.variants]
    assert names[:4] == ["plain", "5 steps", "FORA N=3", "FORA N=5"]
    assert "a quick run: 6 settings of the sweeps were left out" in whole.notes
    absent = {each.name: each for each in whole.absent}
    assert absent["Broken 1"].status == "failed" and "no such luck" in absent["Broken 1"].reason
    assert absent["T-GATE"].reason == "this run was told to leave it out" and "FORA" not in absent
    assert absent["Missing"].status == "no adapter" and absent["Missing"].reason == "it needs a UNet"
    idle = whole.variant("Idle 1").contender
    assert idle is not None and idle.action is not None and not idle.action.acted
    fora = whole.variant("FORA N=3")
    assert fora.contender is not None and fora.contender.action is not None and fora.contender.action.hits > 0
    assert fora.fidelity is not None and len(fora.fidelity.psnr_db.per_image) == OPTIONS.images
    assert fora.denoiser is not None and fora.denoiser.allowed_speedup is not None
    assert fora.denoiser.allowed_speedup > 1
    assert whole.variant("Idle 1").fidelity.psnr_db.mean == 100  # type: ignore[union-attr]
    assert whole.settings.num_timed == 2 and whole.settings.prompt_list == "certify"
    assert Report.load(whole.save(tmp_path)) == whole


def test_a_deadline_ends_with_a_report_that_says_so(model: Path, tmp_path: Path) -> None:
    measurement = _measurement(model, tmp_path)
    clock = itertools.count()
    measurement.limits = Limits(rounds=5, deadline=6, quick=True, clock=lambda: float(next(clock)))
    report = _report(measurement)
    assert any(each.reason == "the time allowed was over" for each in report.absent)
    assert report.settings.repeats == 3


def test_another_measurement_is_not_continued(tmp_path: Path) -> None:
    Store(tmp_path, {"images": 3, "dtype": "float32"})
    with pytest.raises(ConfigError, match="another images"):
        Store(tmp_path, {"images": 4, "dtype": "float32"})


def test_a_torn_file_is_measured_again(tmp_path: Path) -> None:
    store = Store(tmp_path, {})
    store.put_outcome("FORA N=2", {"work": [{}, 0]})
    file = next((tmp_path / "contenders").glob("*.json"))
    file.write_text(file.read_text()[:20])
    assert store.outcome("FORA N=2") is None
    store.add_round({"plain": (1.0, 0.5)})
    with (tmp_path / "rounds.jsonl").open("a") as rounds:
        rounds.write('{"plain": [1.0')
    assert store.rounds() == [{"plain": [1.0, 0.5]}]


def test_a_rival_that_cannot_be_removed_ends_the_measurement(model: Path, tmp_path: Path) -> None:
    class Sticky(Idle):
        name = "Sticky"

        def attach(self, pipe: Any, setting: Setting, task: Task) -> None:
            pipe.transformer.proj_out.bias.data += 1

    measurement = _measurement(model, tmp_path)
    measurement.rivals = [Sticky()]
    with pytest.raises(RuntimeError, match="'Idle 1' was removed"):
        measurement.run()


def test_samplers() -> None:
    pipe = tiny_pipeline("pixart")
    assert scheduler_for(pipe, "own") is pipe.scheduler
    assert type(scheduler_for(pipe, "ddim")).__name__ == "DDIMScheduler"
    with pytest.raises(ConfigError, match="Did you mean 'euler'"):
        scheduler_for(pipe, "eular")
    with pytest.raises(ConfigError, match="flow model"):
        scheduler_for(tiny_pipeline("flux"), "ddim")


@pytest.mark.parametrize("shape", ["pixart-rehearsal", "flux-rehearsal"])
def test_shapes_are_timed_and_never_compared(shape: str, tmp_path: Path) -> None:
    arena = ShapeArena(shape, 6, ArenaOptions())
    names = ["FORA", "FirstBlockCache", "TaylorSeer", "PyramidAttentionBroadcast"]
    measurement = Measurement(arena, select_rivals(names), Store(tmp_path, {}), Limits(rounds=1, quick=True))
    report = _report(measurement)
    assert not [each for each in report.absent if each.status != "no adapter" and each.rival in names]
    assert all(variant.fidelity is None for variant in report.variants)
    assert report.variant("FORA N=3").contender.action.acted  # type: ignore[union-attr]
    assert any("random weights" in note for note in report.notes)
