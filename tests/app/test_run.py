"""``dit-accel app``: what it says when it cannot start, and what it starts with."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dit_accel.app import run as app_run
from dit_accel.cli.app import app
from dit_accel.errors import ConfigError, MissingDependencyError

ROOT = Path(__file__).resolve().parents[2]


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


SERVED_WITHOUT_TORCH = """
import sys
from pathlib import Path
import httpx
from dit_accel.app.run import launch
page = launch(folder=Path(sys.argv[1]), output=Path(sys.argv[1]) / "out", block=False)
home = httpx.get(page.local_url, timeout=100).text
config = httpx.get(page.local_url + "config", timeout=100).json()
plots = [c["props"]["value"] for c in config["components"] if c["props"].get("elem_id") == "plot"]
heavy = [name for name in ("torch", "diffusers", "transformers") if name in sys.modules]
print("svg" in plots[0], "gradio" in home, heavy)
page.close()
"""


def test_the_whole_first_page_is_served_before_torch_is_imported(tmp_path: Path) -> None:
    """By what is imported, not by a clock: importing torch and diffusers is what a first paint would wait for."""
    pytest.importorskip("gradio", reason="the extra 'app' is not installed")
    done = subprocess.run(
        [sys.executable, "-c", SERVED_WITHOUT_TORCH, str(tmp_path)],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=600,
    )  # fmt: skip
    assert "True True []" in done.stdout
