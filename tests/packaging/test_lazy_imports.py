"""Importing the library costs nothing, and loads nothing that a user may not have."""

from pathlib import Path

import pytest
from source_tree import ROOT, run_python

OPTIONAL = ("triton", "gradio", "torchao", "deap", "pandas", "torchmetrics", "matplotlib", "plotly", "peft", "av")
HEAVY = ("torch", "diffusers", "transformers", "numpy", "pydantic", "typer", "rich")


def loaded(code: str, tmp_path: Path, names: tuple[str, ...]) -> list[str]:
    report = f"import sys; {code}; print(*[name for name in {names!r} if name in sys.modules])"
    return run_python(report, cwd=tmp_path, PYTHONPATH=str(ROOT)).split()


@pytest.mark.parametrize("module", ["dit_accel", "dit_accel.errors", "dit_accel.embedded", "dit_accel.schedules"])
def test_import_loads_no_model_code(tmp_path: Path, module: str) -> None:
    assert loaded(f"import {module}", tmp_path, OPTIONAL + HEAVY) == []


CORE = ("dit_accel.api", "dit_accel.pipelines.loading", "dit_accel.evaluation.reports.report")


@pytest.mark.parametrize("module", CORE)
def test_core_needs_no_extra(tmp_path: Path, module: str) -> None:
    """``triton`` comes with torch, which may load it itself."""
    assert loaded(f"import {module}", tmp_path, tuple(name for name in OPTIONAL if name != "triton")) == []


def test_command_line_needs_no_torch_to_say_what_it_can_do(tmp_path: Path) -> None:
    assert loaded("import dit_accel.cli.app", tmp_path, (*OPTIONAL, "torch", "diffusers", "numpy", "pydantic")) == []


def test_public_names_exist_and_are_listed(tmp_path: Path) -> None:
    code = (
        "import dit_accel; print([n for n in dit_accel.__all__ if n != 'load_embedded' and not getattr(dit_accel, n)])"
    )
    assert run_python(code, cwd=tmp_path, PYTHONPATH=str(ROOT)) == "[]"


def test_an_unknown_name_is_an_attribute_error(tmp_path: Path) -> None:
    code = "import dit_accel\ntry:\n    dit_accel.acelerate\nexcept AttributeError as e:\n    print(e)"
    assert "acelerate" in run_python(code, cwd=tmp_path, PYTHONPATH=str(ROOT))
