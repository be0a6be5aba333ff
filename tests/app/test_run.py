"""``dit-accel app``: what it says when it cannot start, and what it starts with."""

import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dit_accel.app import run as app_run
from dit_accel.cli.app import app
from dit_accel.errors import ConfigError, MissingDependencyError


def test_help_is_there_and_says_that_it_stays_on_this_machine() -> None:
    text = " ".join(CliRunner().invoke(app, ["app", "--help"]).output.split())
    assert "--share" in text and "127.0.0.1" in text


def test_without_gradio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = CliRunner().invoke(app, ["app"])
    assert result.exit_code == 2 and "dit-accel[app]" in result.output
    with pytest.raises(MissingDependencyError):
        app_run.launch()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"model": "emoji-fluxx"}, "Did you mean 'emoji-flux'"), ({"folder": Path("no/such")}, "no folder")],
)
def test_bad_arguments(arguments: dict[str, Any], words: str) -> None:
    pytest.importorskip("gradio", reason="the extra 'app' is not installed")
    with pytest.raises(ConfigError, match=words):
        app_run.launch(**arguments)


def test_it_starts_on_loopback_without_sharing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gradio = pytest.importorskip("gradio", reason="the extra 'app' is not installed")
    seen: dict[str, Any] = {}
    monkeypatch.setattr(gradio.Blocks, "launch", lambda self, **options: seen.update(options))
    result = CliRunner().invoke(app, ["app", "--folder", str(tmp_path), "--no-browser"], catch_exceptions=False)
    assert result.exit_code == 0
    assert seen["server_name"] == "127.0.0.1" and seen["share"] is False and seen["max_file_size"]
    assert seen["allowed_paths"] == ["outputs/app/generated", "outputs/app/grids"]
