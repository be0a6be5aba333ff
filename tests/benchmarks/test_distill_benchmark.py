"""The benchmark of students: what coverage counts, which rivals stand beside a student, and the table."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import distill
import pytest
import torch

from dit_accel.errors import ConfigError


def test_coverage_counts_the_real_pictures_that_have_a_generated_one_near() -> None:
    torch.manual_seed(0)
    here, there = torch.randn(40, 8), torch.randn(40, 8) + 100
    real = torch.cat([here, there])
    assert distill.coverage(real, real) == 1
    assert distill.coverage(real, here) == 0.5
    assert distill.coverage(real, real + 1000) == 0
    one = distill.coverage(real, here[:1].repeat(80, 1))
    assert 0 < one < 0.2  # as many pictures, all the same: the mode that is left covers its neighbours alone
    with pytest.raises(ConfigError, match="more than 5 real"):
        distill.coverage(real[:5], real)


def test_every_student_has_the_teacher_and_a_fitted_trajectory_of_as_many_evaluations_beside_it(
    tmp_path: Path,
) -> None:
    from safetensors.torch import save_file

    save_file({}, tmp_path / "pytorch_lora_weights.safetensors")
    (tmp_path / "student.json").write_text(json.dumps({"method": "lcm", "steps": [1, 2]}))
    comparison: Any = SimpleNamespace(teacher_steps=28, fitted=lambda count, prompts: f"fitted {count} on {prompts}")
    found = {name: (evaluations, make()) for name, evaluations, make in
             distill.systems(comparison, {"lcm": tmp_path}, (1, 2), 32)}  # fmt: skip
    assert found["teacher, 28 steps"] == (28, (28, ()))
    assert found["teacher, 2 steps"] == (2, (2, ()))
    assert found["teacher, fitted trajectory, 2 of 28"] == (2, (28, ("fitted 2 on 32",)))
    evaluations, (steps, passes) = found["lcm, 1 steps"]
    assert (evaluations, steps, passes[0].method) == (1, 1, "lcm")
    assert len(found) == 1 + 2 * 3


def test_a_trajectory_is_timed_without_a_fit(tmp_path: Path) -> None:
    comparison: Any = SimpleNamespace(teacher_steps=8, fitted_folder=lambda *_: tmp_path / "none")
    found = distill.Comparison.timed(comparison, 2, 32)
    assert found.weights is None and found.computed is not None
    assert sum(found.computed) == 2 and len(found.computed) == 8
    comparison = SimpleNamespace(fitted_folder=lambda *_: tmp_path, fitted=lambda *which: which)
    assert distill.Comparison.timed(comparison, 2, 32) == (2, 32)


def test_the_table_says_of_how_many_pictures() -> None:
    rows = distill.table({"teacher": {"n": 7, "alignment": 0.5, "psnr_db": 30.0}}).splitlines()
    assert rows[0] == "| system | alignment | psnr_db | n |"
    assert rows[2] == "| teacher | 0.5 | 30.0 | 7 |"


def test_systems_of_a_report_are_taken_over_where_they_were_measured_alike_and_come_in_order() -> None:
    systems = {
        "lcm, 2 steps": {"evaluations": 2}, "teacher, 28 steps": {"evaluations": 28},
        "teacher, 2 steps": {"evaluations": 2}, "lcm, 1 steps": {"evaluations": 1},
    }  # fmt: skip
    report = {"num": 200, "systems": systems}
    assert distill.alike(report, 200) == systems
    assert distill.alike(report, 100) == distill.alike(None, 200) == {}
    assert list(distill.in_order(systems)) == [
        "teacher, 28 steps", "lcm, 1 steps", "teacher, 2 steps", "lcm, 2 steps",
    ]  # fmt: skip


def test_a_student_whose_weights_changed_is_another(tmp_path: Path) -> None:
    file = tmp_path / "pytorch_lora_weights.safetensors"
    file.write_bytes(b"one")
    first = distill.weights_digest(tmp_path)
    assert distill.weights_digest(tmp_path) == first
    file.write_bytes(b"two")
    assert distill.weights_digest(tmp_path) != first
