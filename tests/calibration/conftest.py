"""Make the helpers of the passes' tests importable; what tests that calibrate share: a quick pipeline, no networks."""

import sys
from pathlib import Path
from typing import Any

import pytest

for folder in (Path(__file__).resolve().parents[1] / "passes", Path(__file__).resolve().parent):
    sys.path.insert(0, str(folder))


@pytest.fixture
def without_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    from quick_calibration import no_networks

    from dit_accel.calibration import judging

    monkeypatch.setattr(judging, "available_perceptual", no_networks)


@pytest.fixture(scope="module")
def pipe() -> Any:
    """The quick pipeline; a file with another one says so."""
    from quick_calibration import quick_pipeline

    return quick_pipeline()
