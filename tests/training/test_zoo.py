"""Several pipelines in one call: order, time budget, going on, and skipping what is finished."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_recipes import PIXART, SD
from typer.testing import Result

from dit_accel.errors import ConfigError
from dit_accel.training import recipes, zoo
from dit_accel.training.progress import is_done, mark_done, pending
from dit_accel.training.recipes import scale_steps
from dit_accel.training.stage import RunOptions
from dit_accel.training.training_set import TrainingSet

SOURCE = dataclasses.replace(PIXART, name="emoji-pixart", decoder_loop=None)
BORROWER = dataclasses.replace(
    SD, name="emoji-sd", vae={}, vae_loop=None, vae_source="emoji-pixart", decoder_loop=None
)


@pytest.fixture(autouse=True)
def small_zoo(monkeypatch: pytest.MonkeyPatch, data: TrainingSet) -> list[str]:
    """Two recipes, no downloads; returns a list that grows with every data set that is read."""
    read: list[str] = []

    def load(recipe: Any, data_dir: Path | None, *, held_out: bool = False) -> TrainingSet:
        read.append(recipe.name)
        return data

    monkeypatch.setattr(zoo, "load_training_set", load)
    small = {recipe.name: {"cpu": recipe, "gpu": recipe} for recipe in (BORROWER, SOURCE)}
    monkeypatch.setattr(recipes, "RECIPES", small)
    monkeypatch.setattr(zoo, "RECIPES", small)
    return read


def jobs(run_dir: Path, **changes: Any) -> list[zoo.TrainingJob]:
    return [
        zoo.TrainingJob(
            recipe=recipe,
            options=RunOptions(
                run_dir=run_dir / recipe.name, device=torch.device("cpu"), compile_modules=False, **changes
            ),
            output=run_dir / recipe.name / "final",
        )
        for recipe in (SOURCE, BORROWER)
    ]


def train(run_dir: Path, **changes: Any) -> list[tuple[str, bool]]:
    return [(o.name, o.finished) for o in zoo.train_zoo(jobs(run_dir, **changes), None, measure=False)]


def test_autoencoders_come_before_those_who_take_them_over() -> None:
    assert zoo.order_names(["all"], "cpu") == ["emoji-pixart", "emoji-sd"]
    assert zoo.order_names(["emoji-sd", "emoji-pixart", "emoji-sd"], "gpu") == ["emoji-pixart", "emoji-sd"]
    assert zoo.order_names(["emoji-sd"], "cpu") == ["emoji-sd"], "the one that ships is taken"
    with pytest.raises(ConfigError, match="Did you mean 'emoji-sd'"):
        zoo.order_names(["emoji-sdd"], "cpu")


def test_calls_go_on_where_the_time_ended_and_finished_ones_cost_nothing(
    tmp_path: Path, small_zoo: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spent = time.monotonic() - 1
    assert train(tmp_path, deadline=spent) == [("emoji-pixart", False), ("emoji-sd", False)]
    assert not small_zoo, "no time, no data"
    assert train(tmp_path, max_minutes=0) == [("emoji-pixart", False), ("emoji-sd", False)], "one step of three"
    assert train(tmp_path) == [("emoji-pixart", True), ("emoji-sd", True)]
    assert (tmp_path / "emoji-sd" / "final" / "model_index.json").exists()

    small_zoo.clear()
    for name in ("train_embedded", "assemble", "export_release"):
        monkeypatch.setattr(zoo, name, lambda *_: pytest.fail("finished"))
    assert train(tmp_path, deadline=spent) == [("emoji-pixart", True), ("emoji-sd", True)]
    assert not small_zoo


def test_a_changed_recipe_is_not_finished(tmp_path: Path) -> None:
    mark_done(SOURCE, "denoiser", tmp_path)
    loop = SOURCE.denoiser_loop
    assert is_done(SOURCE, "denoiser", tmp_path) and pending(SOURCE, tmp_path) == ["vae"]
    same = dataclasses.replace(SOURCE, denoiser_loop=dataclasses.replace(loop, log_steps=7, save_minutes=1))
    assert is_done(same, "denoiser", tmp_path)
    longer = dataclasses.replace(SOURCE, denoiser_loop=dataclasses.replace(loop, steps=9))
    assert not is_done(longer, "denoiser", tmp_path)
    assert not is_done(dataclasses.replace(SOURCE, seed=1), "denoiser", tmp_path)


def test_training_a_stage_again_takes_the_later_ones_up_again(tmp_path: Path, small_zoo: list[str]) -> None:
    assert train(tmp_path)[0] == ("emoji-pixart", True)
    longer = dataclasses.replace(SOURCE, vae_loop=dataclasses.replace(SOURCE.denoiser_loop, steps=4))
    assert pending(longer, tmp_path / "emoji-pixart") == ["vae"]
    job = dataclasses.replace(jobs(tmp_path)[0], recipe=longer)
    list(zoo.train_zoo([job], None, stages=["vae"], measure=False))
    assert pending(longer, tmp_path / "emoji-pixart") == ["denoiser"]


def test_scaled_recipes_keep_a_step_and_a_short_warm_up() -> None:
    recipe = dataclasses.replace(
        SOURCE, denoiser_loop=dataclasses.replace(SOURCE.denoiser_loop, steps=1000, warmup_steps=100)
    )
    tiny, long = scale_steps(recipe, 0.01).denoiser_loop, scale_steps(recipe, 3).denoiser_loop
    assert (tiny.steps, tiny.warmup_steps) == (10, 1)
    assert (long.steps, long.warmup_steps) == (3000, 100)
    assert scale_steps(recipe, 1e-9).denoiser_loop.steps == 1
    assert scale_steps(recipe, 1) == recipe
    with pytest.raises(ConfigError, match="above 0"):
        scale_steps(recipe, 0)


def test_the_command_says_what_is_left_and_goes_on(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from dit_accel.cli.app import app

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(
            app, ["train-embedded", "all", "--device", "cpu", "--no-compile", "--no-measure", *arguments]
        )

    folder = str(tmp_path / "runs")
    cut = call("--run-dir", folder, "--time-budget", "0")
    assert cut.exit_code == 0, "a spent budget is no error"
    assert "The time budget of 0 min is spent. Not finished: emoji-pixart, emoji-sd." in " ".join(cut.output.split())
    whole = call("--run-dir", folder, "--output", str(tmp_path / "out"))
    assert whole.exit_code == 0
    assert {path.parent.name for path in tmp_path.glob("out/*/model_index.json")} == {"emoji-pixart", "emoji-sd"}
    assert call("--run-dir", folder, "--output", str(tmp_path / "out")).output.count("was finished before") == 2
