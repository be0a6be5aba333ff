"""Commands are run in this process, on a tiny pipeline in a folder, with nothing embedded unless a test says so."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_text import save_tiny_text_pipeline
from tiny_videos import save_tiny_video_pipeline
from typer.testing import CliRunner, Result

import dit_accel.embedded
from dit_accel.cli.app import app


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder with a tiny text-to-image pipeline."""
    return str(save_tiny_text_pipeline(tmp_path_factory.mktemp("tiny-pipeline")))


@pytest.fixture(scope="session")
def tiny_video_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder with a tiny text-to-video pipeline."""
    return str(save_tiny_video_pipeline(tmp_path_factory.mktemp("tiny-video-pipeline")))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """Run a command line in an empty folder; a bug's exception is raised, not swallowed."""
    monkeypatch.setattr(dit_accel.embedded, "list_embedded", lambda: ["emoji-pixart"], raising=False)
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments), catch_exceptions=False)

    return invoke
