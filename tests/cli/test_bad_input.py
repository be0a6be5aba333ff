"""Every mistake: exit code 2, one line on stderr, nothing on stdout, no traceback."""

import json
import sys
from pathlib import Path

import pytest

PLAN = {
    "format": "dit-accel/plan",
    "version": 1,
    "name": "mine",
    "passes": [{"type": "static_cache", "version": 1, "schedule": {"generator": "every_n", "params": {"n": 2}}}],
}
OTHER_MODEL = {"model_class": "FluxTransformer2DModel", "sites": "0", "config": "0"}
FIVE_STEPS = {"num_steps": 5, "recompute": {"blocks.0.attn1": "10101"}}


def check(result, *words: str) -> None:
    lines = [line for line in result.stderr.splitlines() if not line.startswith(("loading", "drawing"))]
    assert result.exit_code == 2, result.stderr
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    assert result.stdout == ""
    for word in words:
        assert word in lines[0]


def written(data: object) -> str:
    Path("plan.json").write_text(data if isinstance(data, str) else json.dumps(data))
    return "plan.json"


@pytest.mark.parametrize("command", [("generate", "an owl", "--preset", "fst"), ("demo", "--preset", "fst")])
def test_unknown_preset(run, tiny_folder: str, command: tuple[str, ...]) -> None:
    check(run(*command, "-m", tiny_folder), "unknown preset 'fst'", "Did you mean 'fast'?")


def test_unknown_preset_to_show(run) -> None:
    check(run("presets", "show", "balance"), "Did you mean 'balanced'?")


def test_preset_and_plan(run) -> None:
    check(run("generate", "an owl", "--preset", "fast", "--plan", "x"), "exclude each other")


def test_misspelt_key_in_a_plan(run, tiny_folder: str) -> None:
    bad = {**PLAN, "passes": [{**PLAN["passes"][0], "invariant": True}]}
    check(run("generate", "an owl", "-m", tiny_folder, "--plan", written(bad)), "Did you mean 'invariants'?")
    check(
        run("generate", "an owl", "-m", tiny_folder, "--plan", written({**PLAN, "pases": []})), "unknown key 'pases'"
    )


def test_truncated_plan(run, tiny_folder: str) -> None:
    check(run("generate", "an owl", "-m", tiny_folder, "--plan", written(json.dumps(PLAN)[:80])), "truncated")


def test_missing_plan(run, tiny_folder: str) -> None:
    check(run("generate", "an owl", "-m", tiny_folder, "--plan", "nowhere.json"), "no plan at 'nowhere.json'")


def test_plan_for_another_model(run, tiny_folder: str) -> None:
    bad = written({**PLAN, "fingerprint": OTHER_MODEL})
    check(run("generate", "an owl", "-m", tiny_folder, "--plan", bad), "FluxTransformer2DModel")


def test_plan_for_another_step_count_in_strict_mode(run, tiny_folder: str) -> None:
    plan = {**PLAN, "passes": [{"type": "static_cache", "version": 1, "schedule": FIVE_STEPS}]}
    arguments = ("generate", "an owl", "-m", tiny_folder, "--plan", written(plan), "--steps", "4")
    check(run(*arguments, "--strict"), "made for 5")
    relaxed = run(*arguments)
    assert relaxed.exit_code == 0
    assert "warning: the schedule was made for 5" in relaxed.stderr


def test_nan_in_corrections(run, tiny_folder: str) -> None:
    import torch
    from safetensors.torch import save_file

    Path("plan").mkdir()
    plan = {**PLAN, "passes": [{"type": "static_cache", "version": 1, "schedule": FIVE_STEPS}]}
    Path("plan/dit_accel_plan.json").write_text(json.dumps(plan))
    tables = {f"static_cache/blocks.0.attn1.{part}": torch.full((5, 8), float("nan")) for part in ("scale", "shift")}
    save_file(tables, "plan/dit_accel_plan.safetensors")
    check(run("generate", "an owl", "-m", tiny_folder, "--plan", "plan"), "not finite")


def test_unknown_model(run) -> None:
    check(run("generate", "an owl", "-m", "emoji-pixar"), "Did you mean 'emoji-pixart'?")
    check(run("demo", "-m", "./nowhere"), "no such folder")
    check(run("demo", "-m", "nobody/nothing-of-the-kind"), "cannot load", "local hub cache")


def test_a_pipeline_without_a_denoiser(run, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers

    class NothingToDenoise(diffusers.DiffusionPipeline):
        def __init__(self, scheduler: diffusers.DDIMScheduler) -> None:
            super().__init__()
            self.register_modules(scheduler=scheduler)

        def __call__(self, prompt: str) -> None: ...

    pipe = NothingToDenoise(diffusers.DDIMScheduler())
    monkeypatch.setattr("dit_accel.pipelines.loading.load_pipeline", lambda *args, **kwargs: pipe)
    check(run("generate", "an owl"), "denoiser")
    assert set(vars(pipe)) == set(vars(NothingToDenoise(diffusers.DDIMScheduler()))) | {"_progress_bar_config"}


def test_bad_dtype_and_device(run, tiny_folder: str) -> None:
    check(run("generate", "an owl", "-m", tiny_folder, "--dtype", "flot16"), "Did you mean 'float16'?")
    check(run("generate", "an owl", "-m", tiny_folder, "--device", "cuda:77"), "cannot be used")


def test_a_size_that_the_pipeline_refuses(run, tiny_folder: str) -> None:
    check(run("generate", "an owl", "-m", tiny_folder, "--height", "63"), "refused to run")
    check(run("generate", "an owl", "-m", tiny_folder, "--steps", "1"), "refused to run")


@pytest.mark.parametrize("command", [("demo",), ("generate", "an owl", "--compare")])
def test_missing_extra(run, monkeypatch: pytest.MonkeyPatch, tiny_folder: str, command: tuple[str, ...]) -> None:
    for name in [name for name in sys.modules if name.startswith("torchmetrics")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    check(run(*command, "-m", tiny_folder), "pip install 'dit-accel[bench]'")


def test_output_that_cannot_be_written(run, tiny_folder: str, tiny_video_folder: str) -> None:
    draw = ("generate", "an owl", "-m", tiny_folder)
    check(run(*draw, "-o", "out.avi"), "no format to write is called '.avi'", ".mp4")
    check(run(*draw, "-o", "out.png", "--num-images", "2"), "2 results do not fit into one file", "folder")
    check(run(*draw, "-o", "out.png", "--compare"), "--compare writes several files", "folder")
    check(run(*draw, "-o", "out.gif"), "this is an image", "'.gif'")
    check(run("generate", "an owl", "-m", tiny_video_folder, "-o", "out.png"), "this is a video", "'.png'", ".mp4")
    assert not list(Path().glob("out*"))


def test_video_options_for_an_image_pipeline(run, tiny_folder: str) -> None:
    draw = ("generate", "an owl", "-m", tiny_folder, "--steps", "4", "--preset", "none")
    check(run(*draw, "--frames", "9"), "'num_frames'", "makes images, not video")
    check(run(*draw, "--fps", "9"), "--fps is for videos")


def test_mp4_without_the_extra(run, monkeypatch: pytest.MonkeyPatch, tiny_video_folder: str) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    wanted = run("generate", "an owl", "-m", tiny_video_folder, "-o", "out.mp4")
    check(wanted, "pip install 'dit-accel[video]'")
    assert "loading" not in wanted.stderr


def test_compare_with_nothing(run, tiny_folder: str) -> None:
    check(run("generate", "an owl", "-m", tiny_folder, "--compare", "--preset", "none"), "needs a plan")


@pytest.mark.parametrize("command", [("generate",), ("generate", "a", "--steps", "0"), ("nonsense",), ("demo", "--x")])
def test_wrong_usage_is_two_as_well(run, command: tuple[str, ...]) -> None:
    result = run(*command)
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
