"""Plan files and corrections that are not valid: where, what, and the nearest thing that would be."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from refusals import refused

from dit_accel import AccelerationPlan, GeneratorSpec, Schedule, StaticCacheConfig
from dit_accel.errors import ConfigError, PlanMismatchError
from dit_accel.plan.plan import PLAN_FILE, TENSOR_FILE, plan_from_dict


def _table(rows: int = 4, channels: int = 16, value: float = 1.0) -> torch.Tensor:
    return torch.full((rows, channels), value)


SCHEDULE = Schedule(4, {"blocks.0.ff": "1010", "blocks.1": "1010"})


@pytest.mark.parametrize(
    ("corrections", "words"),
    [
        pytest.param(
            {"blocks.0.ff.scale": _table(value=float("nan")), "blocks.0.ff.shift": _table()},
            ("'blocks.0.ff.scale' holds 64 values that are not finite",),
            id="nan",
        ),
        pytest.param(
            {"blocks.0.ff.scale": _table(), "blocks.0.ff.shift": _table(value=float("inf"))},
            ("'blocks.0.ff.shift' holds 64 values that are not finite",),
            id="infinity",
        ),
        pytest.param({"blocks.0.ff.scale": _table()}, ("has no partner", "both scale and shift"), id="no-partner"),
        pytest.param({"blocks.0.ff.gain": _table()}, ("must end in '.scale' or '.shift'",), id="other-name"),
        pytest.param(
            {"blocks.0.ff.scale": _table(3), "blocks.0.ff.shift": _table(3)},
            ("has shape [3, 16], wanted [4, channels]",),
            id="other-step-count",
        ),
        pytest.param(
            {"blocks.0.ff.scale": 1.0, "blocks.0.ff.shift": 0.0}, ("must be a tensor, got float",), id="number"
        ),
    ],
)
def test_corrections(corrections: dict[str, Any], words: tuple[str, ...]) -> None:
    refused(lambda: StaticCacheConfig(schedule=SCHEDULE, corrections=corrections), ConfigError, *words)


@pytest.mark.parametrize(
    ("site", "words"),
    [
        pytest.param(
            "blocks.9.ff", ("a correction is for 'blocks.9.ff', which this model does not have",), id="unknown-site"
        ),
        pytest.param("blocks.1", ("'blocks.1' keeps a residual",), id="block"),
        pytest.param("model", ("'model' returns several tensors",), id="several-outputs"),
    ],
)
def test_corrections_for_the_wrong_site(site: str, words: tuple[str, ...]) -> None:
    corrections = {f"{site}.scale": _table(), f"{site}.shift": _table()}
    refused(StaticCacheConfig(schedule=SCHEDULE, corrections=corrections), PlanMismatchError, *words)


def test_corrections_need_a_fixed_step_count() -> None:
    with pytest.raises(ConfigError, match="fixed number of steps, not to a generator"):
        StaticCacheConfig(
            schedule=GeneratorSpec("every_n"),
            corrections={"blocks.0.ff.scale": _table(), "blocks.0.ff.shift": _table()},
        )


def _saved(folder: Path) -> dict[str, Any]:
    corrections = {"blocks.0.ff.scale": _table(), "blocks.0.ff.shift": _table(value=0.0)}
    plan = AccelerationPlan(name="mine", passes=(StaticCacheConfig(schedule=SCHEDULE, corrections=corrections),))
    data: dict[str, Any] = json.loads(plan.save_pretrained(folder).read_text())
    return data


def _edit(data: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *outer, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place: Any = data
    for part in outer:
        place = place[part]
    if value is _DROP:
        del place[last]
    else:
        place[last] = value
    return data


_DROP = object()


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        pytest.param(
            "format", "json", ("is not a dit-accel plan", "'format' is not 'dit-accel/plan'"), id="other-file"
        ),
        pytest.param("version", 3, ("plan version 3, this dit-accel reads 2: update dit-accel",), id="newer"),
        pytest.param("nmae", "x", ("unknown key 'nmae'.", "Did you mean 'name'?"), id="misspelt-key"),
        pytest.param("name", _DROP, ("the key 'name' is missing",), id="missing-key"),
        pytest.param("passes", {}, ("'passes'", "list"), id="no-list"),
        pytest.param("conditions.num_step", 3, ("'conditions.num_step'", "Did you mean 'num_steps'?"), id="condition"),
        pytest.param("conditions.num_steps", "20", ("'conditions.num_steps'", "integer"), id="text-for-number"),
        pytest.param("fingerprint", {"model_class": "X"}, ("'fingerprint.0.sites' is missing",), id="fingerprint"),
        pytest.param(
            "passes.0.type", "static_cash", ("unknown pass 'static_cash'", "Did you mean 'static_cache'?"), id="pass"
        ),
        pytest.param("passes.0.type", _DROP, ("a pass needs a 'type'",), id="untyped-pass"),
        pytest.param("passes.0.version", 9, ("'static_cache' has version 9", "update dit-accel"), id="newer-pass"),
        pytest.param(
            "passes.0.invariant", True, ("no setting 'invariant'", "Did you mean 'invariants'?"), id="setting"
        ),
        pytest.param("passes.0.invariants", 1, ("'invariants' must be true or false, got 1",), id="value"),
        pytest.param("passes.0.schedule", _DROP, ("needs a 'schedule'",), id="no-schedule"),
        pytest.param("passes.0.schedule", {"generator": "every"}, ("Did you mean 'every_n'?",), id="generator"),
        pytest.param("passes.0.schedule", {"generator": "every_n", "params": [2]}, ("'params'",), id="params"),
        pytest.param("passes.0.schedule", {"generator": ["x"]}, ("generator",), id="generator-type"),
        pytest.param("passes.0.schedule", {"generator": "every_n", "parms": {}}, ("'parms'",), id="schedule-key"),
        pytest.param("passes.0.schedule.recompute", {"blocks.0.ff": "12"}, ("written in 0 and 1",), id="row"),
        pytest.param("passes.0.schedule.num_steps", 5, ("'blocks.0.ff' has 4 entries for 5 steps",), id="row-length"),
        pytest.param("passes.0.corrections", {}, ("corrections",), id="tensors-in-json"),
    ],
)
def test_bad_plan_files(tmp_path: Path, path: str, value: Any, words: tuple[str, ...]) -> None:
    data = _edit(_saved(tmp_path), path, value)
    (tmp_path / PLAN_FILE).write_text(json.dumps(data))
    refused(tmp_path, ConfigError, str(tmp_path / PLAN_FILE), *words)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("file", [PLAN_FILE, TENSOR_FILE])
def test_truncated_files(tmp_path: Path, file: str, share: float) -> None:
    _saved(tmp_path)
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(content[: int(share * len(content))])
    refused(tmp_path, ConfigError, str(tmp_path / file), "the file may be truncated")


def test_missing_tensor_file(tmp_path: Path) -> None:
    _saved(tmp_path)
    (tmp_path / TENSOR_FILE).unlink()
    refused(tmp_path, ConfigError, TENSOR_FILE, "missing")


def test_a_binary_file_is_no_plan(tmp_path: Path) -> None:
    (tmp_path / PLAN_FILE).write_bytes(b"\x80\x04\x95pickle")
    refused(tmp_path, ConfigError, "is not valid JSON")


@pytest.mark.parametrize("data", [[], "x", None, 3, {}], ids=repr)
def test_json_that_is_no_plan(data: Any) -> None:
    with pytest.raises(ConfigError, match="is not a dit-accel plan"):
        plan_from_dict(data, {})
