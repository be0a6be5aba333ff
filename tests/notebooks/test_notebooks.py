"""The notebooks run from top to bottom, as they are, in a fresh kernel of this Python."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAX_CELLS = 25
SECONDS_A_CELL = 1200  # against a kernel that hangs; no measure of speed


def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def test_all_four_are_there() -> None:
    names = [path.stem for path in NOTEBOOKS]
    assert names == ["01_quickstart", "02_calibrate_your_model", "03_write_a_pass", "04_read_a_report"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_teaches(path: Path) -> None:
    found = cells(path)
    prose = [cell for cell in found if cell["cell_type"] == "markdown"]
    assert len(found) < MAX_CELLS
    assert len(prose) * 3 >= len(found), "more code than a student can follow"
    assert any("https://" in "".join(cell["source"]) for cell in prose), "no paper is linked"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_pictures_are_kept_in_the_first_only(path: Path) -> None:
    outputs = [output for cell in cells(path) for output in cell.get("outputs", ())]
    if path.stem.startswith("01"):
        assert any("image/png" in output.get("data", {}) for output in outputs)
        assert path.stat().st_size < 400_000
    else:
        assert outputs == []


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.slow) if path.stem.startswith("02") else path for path in NOTEBOOKS],
    ids=lambda path: path.stem,
)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    pytest.importorskip("matplotlib", reason="the extra 'bench' is not installed")
    import nbformat

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=SECONDS_A_CELL, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in shown)
