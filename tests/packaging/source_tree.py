"""The source tree as the packaging tests see it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import tomllib

ROOT = Path(__file__).resolve().parents[2]
SIDE_FOLDERS = ("kernels", "schedules", "calibration", "app")
# Made up, to see that such files get into a wheel.
EXTRA_DATA = (
    "dit_accel/embedded/made-up/model_index.json",
    "dit_accel/embedded/made-up/README.md",
    "dit_accel/embedded/made-up/ATTRIBUTION.txt",
    "dit_accel/embedded/made-up/transformer/diffusion_pytorch_model.safetensors",
    "dit_accel/embedded/made-up/tokenizer/spiece.model",
    "dit_accel/prompts/image/made-up.json",
    "dit_accel/evaluation/judges/made-up/model.safetensors",
    "schedules/plans/made-up/fast/dit_accel_plan.json",
    "schedules/plans/made-up/fast/dit_accel_plan.safetensors",
)


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def source_files(root: Path) -> dict[str, Path]:
    """Every file that belongs into a wheel, by its place there."""
    folders = {"dit_accel": root / "dit_accel", **{f"dit_accel/{side}": root / side for side in SIDE_FOLDERS}}
    return {
        f"{place}/{path.relative_to(folder).as_posix()}": path
        for place, folder in folders.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def copy_tree(target: Path) -> Path:
    """Copy what a wheel is built from, so that building leaves nothing in the checkout."""
    target.mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, target / name)
    for name in ("dit_accel", *SIDE_FOLDERS):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def pip(*arguments: str, python: Path | None = None) -> None:
    """Run pip, without a network, for this interpreter or another one."""
    which = () if python is None else ("--python", str(python))
    subprocess.run(
        [sys.executable, "-m", "pip", *which, "--quiet", "--disable-pip-version-check", *arguments],
        check=True,
        env={**clean_environment(), "PIP_NO_INDEX": "1"},
    )


def clean_environment(**more: str) -> dict[str, str]:
    """The environment without this test run's import paths."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return {**env, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **more}


def run_python(code: str, *, cwd: Path, python: str | Path = sys.executable, **environment: str) -> str:
    """Run code in a fresh interpreter; returns what it printed."""
    done = subprocess.run(
        [str(python), "-c", code],
        cwd=cwd,
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
