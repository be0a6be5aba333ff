"""What goes wrong while plans are searched: nothing is lost, and it is said in one sentence."""

import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quick_calibration import files_of, no_networks, quick, stop_when

from dit_accel.calibration import judging, shelf
from dit_accel.calibration.calibrate import Calibration
from dit_accel.errors import ConfigError
from dit_accel.evaluation import progress_files
from dit_accel.plan.plan import AccelerationPlan

pytest.importorskip("deap")
pytestmark = pytest.mark.usefixtures("without_networks")


@pytest.fixture(scope="module")
def whole(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted calibration."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "available_perceptual", no_networks)
        quick(pipe, folder)
    return folder


def fails_once(call: Any, at: int) -> Any:
    """The disk is full at the ``at``-th call."""
    count = 0

    def full(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return call(*args, **kwargs)

    return full


@pytest.mark.parametrize("at", [1, 5])
def test_a_full_disk_is_told_and_nothing_is_lost(pipe: Any, whole: Path, tmp_path: Path, at: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress_files.os, "fsync", fails_once(os.fsync, at))
        with pytest.raises(ConfigError, match=r"cannot write '.*json': No space left on device.*make room"):
            quick(pipe, tmp_path)
    assert not list(tmp_path.rglob("*.part"))
    for path in tmp_path.glob("*.json"):
        json.loads(path.read_text())
    quick(pipe, tmp_path)
    assert files_of(tmp_path) == files_of(whole)


def test_a_full_disk_leaves_no_half_plan(pipe: Any, whole: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shelf.os, "replace", fails_once(os.replace, 6))
        with pytest.raises(ConfigError, match=r"cannot write '.*': No space left on device"):
            quick(pipe, tmp_path)
    assert not list(tmp_path.rglob("*.part"))
    quick(pipe, tmp_path)
    assert files_of(tmp_path) == files_of(whole)


def poisoned(when: Any, poison: Any) -> Any:
    """``fit``, with something wrong for some sets of steps."""
    plain = judging.fit

    def fit(pipe: Any, draw: Any, reference: Any, computed: Any, first: int, last: int, **options: Any) -> Any:
        result = plain(pipe, draw, reference, computed, first, last, **options)
        return poison(result) if when(tuple(computed)) else result

    return fit


def nan_pictures(result: Any) -> Any:
    return dataclasses.replace(result, pictures=torch.full_like(result.pictures, torch.nan))


def inf_latents(result: Any) -> Any:
    return dataclasses.replace(result, latents=result.latents / 0)


def no_solution(result: Any) -> Any:
    raise np.linalg.LinAlgError("Singular matrix")


@pytest.mark.parametrize(
    ("poison", "why"),
    [
        (nan_pictures, "its pictures are not finite"),
        (inf_latents, "its latents are not finite"),
        (no_solution, "its fit failed: Singular matrix"),
    ],
)
def test_a_candidate_that_is_not_finite_is_skipped_and_counted(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poison: Any, why: str
) -> None:
    monkeypatch.setattr(judging, "fit", poisoned(lambda steps: len(steps) == 4, poison))
    found = quick(pipe, tmp_path / "whole")
    assert found.skipped and all(len(steps) == 4 and why in told for steps, told in found.skipped.items())
    assert found.points and not any(len(point.computed) == 4 for point in found.points)
    assert not list((tmp_path / "whole").glob("4-of-5"))
    with pytest.raises(InterruptedError):
        stop = stop_when(lambda what, calibration: bool(calibration.skipped), InterruptedError)
        quick(pipe, tmp_path / "parts", on_progress=stop)
    quick(pipe, tmp_path / "parts")
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")


def test_weights_that_are_not_finite_are_skipped(pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline itself gives the NaN, at a step that only some candidates compute."""
    forward = type(pipe.transformer).forward
    calls = {"plain": True}

    def now_and_then(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = forward(self, *args, **kwargs)
        calls["n"] = calls.get("n", 0) + 1
        if not calls["plain"] and calls["n"] % 31 == 0:
            return (torch.full_like(result[0], torch.nan),)
        return result

    def settled(what: str, left_s: float, calibration: Calibration) -> None:
        calls["plain"] = what == "record"  # the gains are measured without it

    monkeypatch.setattr(type(pipe.transformer), "forward", now_and_then)
    found = quick(pipe, tmp_path, on_progress=settled)
    assert found.skipped and all("not finite" in why for why in found.skipped.values())
    assert found.front and all(np.isfinite(point.score_db) for point in found.points)


def test_a_scorer_that_throws_now_and_then_costs_one_candidate(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, count = judging.differences, 0

    def differences(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == 3:
            raise RuntimeError("cuDNN error:\n CUDNN_STATUS_NOT_SUPPORTED")
        return plain(*args, **kwargs)

    monkeypatch.setattr(judging, "differences", differences)
    found = quick(pipe, tmp_path)
    assert list(found.skipped.values()) == ["scoring it failed: RuntimeError: cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"]
    assert json.loads((tmp_path / "judged.json").read_text())["skipped"][0]["why"].startswith("scoring it failed")


def test_a_scorer_that_always_throws_is_one_error_and_is_tried_again(
    pipe: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differences(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("weights of another version")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "differences", differences)
        with pytest.raises(ConfigError, match=r"none of the 3 candidates could be judged.*weights of another version"):
            quick(pipe, tmp_path)
    quick(pipe, tmp_path)
    assert files_of(tmp_path) == files_of(whole)


def test_a_plain_run_that_is_not_finite_is_an_error(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = judging.generate
    monkeypatch.setattr(judging, "generate", lambda *args: plain(*args) / torch.tensor(0.0))
    with pytest.raises(ConfigError, match=r"plain pipeline's own pictures are not finite.*another dtype"):
        quick(pipe, tmp_path)


GARBLED = [
    ("truncated", lambda text: text[: len(text) // 2]),
    ("empty", lambda text: ""),
    ("binary", lambda text: "\x00\x01" * 50),
    ("a list", lambda text: "[1, 2]"),
    ("another format", lambda text: json.dumps({"points": [{"steps": 3}]})),
    ("a short state", lambda text: json.dumps({**json.loads(text), "search": {"rng": "3: 1 2", "population": []}})),
    ("a lost point", lambda text: json.dumps({**json.loads(text), "points": []})),
]


@pytest.mark.parametrize(("name", "garble"), GARBLED, ids=[name for name, _ in GARBLED])
def test_a_damaged_state_is_one_error_that_names_the_sound_copy(
    pipe: Any, whole: Path, tmp_path: Path, name: str, garble: Any
) -> None:
    folder = tmp_path / "found here"
    shutil.copytree(whole, folder)
    state = folder / "judged.json"
    state.write_text(garble(state.read_text()))
    before = files_of(folder)
    with pytest.raises(
        ConfigError, match=r"judged\.json' (is damaged|holds no judgements).*Nothing was deleted"
    ) as told:
        quick(pipe, folder)
    assert files_of(folder) == before
    command = str(told.value).rpartition("still: ")[2]
    assert os.system(command) == 0
    quick(pipe, folder)
    assert files_of(folder) == files_of(whole)
    (folder / "judged.last-generation.json").unlink()
    state.write_text("{")
    with pytest.raises(ConfigError, match="delete that file to judge everything anew"):
        quick(pipe, folder)


def test_a_damaged_claim_is_one_error(pipe: Any, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "found"
    shutil.copytree(whole, folder)
    (folder / "job.json").write_text('{"model": "ti')
    before = files_of(folder)
    with pytest.raises(ConfigError, match=r"job\.json' is damaged.*cannot be told whose work.*delete that one file"):
        quick(pipe, folder)
    assert files_of(folder) == before
    (folder / "job.json").unlink()
    quick(pipe, folder)
    assert files_of(folder) == files_of(whole)


def test_plans_that_left_the_front_go_unless_certified(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "found"
    shutil.copytree(whole, folder)
    for name in ("9-of-50", "8-of-50"):
        shutil.copytree(next(folder.glob("*-of-5")), folder / name)
    (folder / "7-of-50").mkdir()
    certified = folder / "8-of-50" / "dit_accel_plan.json"
    plain = AccelerationPlan.from_pretrained
    with pytest.MonkeyPatch.context() as patch:

        def with_certificate(source: Any) -> Any:
            plan = plain(source)
            if Path(source) != certified.parent:
                return plan
            object.__setattr__(plan, "certificate", object())
            return plan

        patch.setattr(AccelerationPlan, "from_pretrained", staticmethod(with_certificate))
        shelf.tidy(folder, ())
    left = sorted(path.name for path in folder.iterdir() if shelf.NAME.fullmatch(path.name))
    assert left == ["7-of-50", "8-of-50"]
