"""``presets``, ``env`` and help."""

import json

import pytest

import dit_accel
from dit_accel.session.presets import PRESETS


def test_presets_list(run) -> None:
    assert json.loads(run("presets", "list", "--json").stdout) == {name: PRESETS.get(name).summary for name in PRESETS}
    text = run("presets", "list").stdout
    assert all(name in text for name in PRESETS)


def test_presets_show_rule_and_plan(run, tiny_folder: str) -> None:
    rules = json.loads(run("presets", "show", "fast", "--json").stdout)["passes"]
    assert rules == [config.to_dict() for config in PRESETS.get("fast").make(())]
    assert rules[0]["schedule"]["generator"] in run("presets", "show", "fast").stdout
    plan = json.loads(run("presets", "show", "fast", "--model", tiny_folder, "--json").stdout)
    assert plan["format"] == "dit-accel/plan"
    assert plan["fingerprint"]["model_class"] == "PixArtTransformer2DModel"
    text = run("presets", "show", "fast", "--model", tiny_folder).stdout
    assert "not certified" in text and "%" in text


def test_env(run) -> None:
    import torch

    data = json.loads(run("env", "--json").stdout)
    assert data["packages"]["torch"] in torch.__version__
    assert data["dit_accel"] == dit_accel.__version__
    assert torch.__version__.split("+")[0] in run("env").stdout


def test_version(run) -> None:
    assert run("--version").stdout.strip() == dit_accel.__version__


@pytest.mark.parametrize("command", [(), ("generate",), ("demo",), ("env",), ("presets",), ("presets", "show")])
def test_help_gives_an_example(run, command: tuple[str, ...]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "dit-accel" in result.stdout.replace("\n", " ") or "presets list" in result.stdout
