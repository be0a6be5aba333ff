"""The package works installed as a wheel, installed editable, and not installed at all."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest
from source_tree import ROOT, clean_environment, copy_tree, pip, run_python

# Every folder, a name from each side folder that has one, and a class that needs torch.
USE = """
import dit_accel, dit_accel.app, dit_accel.calibration, dit_accel.kernels, dit_accel.schedules
from dit_accel.schedules import GeneratorSpec
from dit_accel import StaticCacheConfig, AccelerationPlan, accelerate_pipeline
plan = AccelerationPlan(passes=(StaticCacheConfig(schedule=GeneratorSpec("every_n", n=2)),))
assert plan.to_dict()["passes"][0]["type"] == "static_cache"
import pickle; assert pickle.loads(pickle.dumps(GeneratorSpec("every_n", n=2))) == GeneratorSpec("every_n", n=2)
print(dit_accel.__file__); print(GeneratorSpec.__module__); print(list(dit_accel.kernels.__path__)[0])
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty virtual environment that sees what is installed here, but not this project's own installation."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    here = [path for path in sys.path if path.endswith("site-packages")]
    (site / "outside.pth").write_text("\n".join(here) + "\n")  # a bare path: its own .pth files are not followed
    return folder


def files_of(output: str) -> tuple[Path, str, Path]:
    package, module, kernels = output.splitlines()
    return Path(package), module, Path(kernels)


def test_nothing_installed(tmp_path: Path) -> None:
    package, module, kernels = files_of(run_python(USE, cwd=tmp_path, PYTHONPATH=str(ROOT)))
    assert package.parent == ROOT / "dit_accel"
    assert module == "dit_accel.schedules.generators"
    assert kernels == ROOT / "kernels"


@pytest.mark.parametrize("at_the_root", [False, True])
def test_wheel(wheel: Path, tmp_path: Path, at_the_root: bool) -> None:
    pip("install", "--no-deps", "--target", str(tmp_path / "site"), str(wheel))
    cwd = ROOT if at_the_root else tmp_path
    package, module, kernels = files_of(run_python(USE, cwd=cwd, PYTHONPATH=str(tmp_path / "site")))
    home = ROOT if at_the_root else tmp_path / "site"  # `python -c` puts the current folder first
    assert package.parent == home / "dit_accel"
    assert module == "dit_accel.schedules.generators"
    assert kernels == (ROOT / "kernels" if at_the_root else home / "dit_accel" / "kernels")


def test_editable(environment: Path, tmp_path: Path) -> None:
    source = copy_tree(tmp_path / "source")
    python = environment / "bin" / "python"
    pip("install", "--no-deps", "--no-build-isolation", "--ignore-installed", "-e", str(source), python=python)
    package, module, kernels = files_of(run_python(USE, cwd=tmp_path, python=python))
    assert package.parent == source / "dit_accel"
    assert module == "dit_accel.schedules.generators"
    assert kernels == source / "kernels"
    (source / "schedules" / "brand_new.py").write_text("answer = 42\n")
    new = run_python("from dit_accel.schedules import brand_new; print(brand_new.answer)", cwd=tmp_path, python=python)
    assert new == "42"
    version = subprocess.run(
        [environment / "bin" / "dit-accel", "--version"],
        env=clean_environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert version.stdout.strip() == run_python("import dit_accel; print(dit_accel.__version__)", cwd=ROOT)
