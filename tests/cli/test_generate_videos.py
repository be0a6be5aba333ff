"""``generate`` and ``demo`` with a text-to-video pipeline, and what ``--output`` may name."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from dit_accel.evaluation.reports.report import Report

TINY = ("--steps", "4", "--device", "cpu")
CLIP = (*TINY, "--height", "32", "--width", "64", "--frames", "5")


def probe(path: str | Path) -> tuple[int, tuple[int, int], float]:
    """Frames, size and rate of an .mp4."""
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        count = sum(1 for _ in container.decode(stream))
    return count, (stream.width, stream.height), float(stream.average_rate)


def test_one_video_goes_into_the_file_that_was_named(run, tiny_video_folder: str) -> None:
    pytest.importorskip("av")
    result = run("generate", "a red apple", "-m", tiny_video_folder, "-o", "new/out.mp4", *CLIP)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.split() == ["new/out.mp4"]
    assert probe("new/out.mp4") == (5, (64, 32), 8)
    assert "plan 'balanced' (not certified)" in result.stderr


def test_zoom_fps_and_rounded_frames(run, tiny_video_folder: str) -> None:
    pytest.importorskip("av")
    more = ("--zoom", "2", "--fps", "12", "--frames", "7")
    result = run("generate", "an owl", "-m", tiny_video_folder, "-o", "out.mp4", *CLIP, *more)
    assert probe("out.mp4") == (5, (128, 64), 12)
    assert "note: made 5 frames" in result.stderr


def test_a_folder_gets_one_mp4_for_each(run, tiny_video_folder: str) -> None:
    pytest.importorskip("av")
    result = run("generate", "an owl", "-m", tiny_video_folder, "--num-images", "2", "-o", "v1.5", "--json", *CLIP)
    files = json.loads(result.stdout)["files"]
    assert files == ["v1.5/an-owl_seed0.mp4", "v1.5/an-owl_seed1.mp4"]
    assert all(probe(file) == (5, (64, 32), 8) for file in files)


def test_without_the_extra_a_folder_gets_webp_and_says_so(
    run, tiny_video_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    result = run("generate", "an owl", "-m", tiny_video_folder, "-o", "out", *CLIP)
    assert result.stdout.split() == ["out/an-owl_seed0.webp"]
    assert "pip install 'dit-accel[video]'" in result.stderr
    assert Image.open("out/an-owl_seed0.webp").n_frames > 1


@pytest.mark.parametrize("name", ["out.webp", "out.gif"])
def test_loops(run, tiny_video_folder: str, name: str) -> None:
    assert run("generate", "an owl", "-m", tiny_video_folder, "-o", name, *CLIP).exit_code == 0
    with Image.open(name) as file:
        assert file.n_frames > 1 and file.size == (64, 32) and file.info["loop"] == 0


def test_compare_plays_side_by_side(run, tiny_video_folder: str) -> None:
    pytest.importorskip("av")
    result = run("generate", "an owl", "-m", tiny_video_folder, "--preset", "turbo", "--compare", "-o", "out", *CLIP)
    assert result.exit_code == 0, result.stderr
    names = {path.name for path in Path("out").iterdir()}
    videos = {"an-owl_seed0.mp4", "an-owl_seed0_plain.mp4"}
    assert names == {*videos, "compare.png", "compare.webp", "report.json"}
    assert all(probe(Path("out") / video) == (5, (64, 32), 8) for video in videos)
    assert {Path(file).name for file in result.stdout.split() if file.startswith("out/")} == names
    report = Report.load("out")
    assert report.settings.num_frames == 5
    assert "1 video of 5 frames" in result.stdout
    assert f"{report.variant('turbo').fidelity.psnr_db.mean:.1f}" in result.stdout
    still, moving = Image.open("out/compare.png"), Image.open("out/compare.webp")
    assert moving.n_frames > 1
    assert still.width > 4 * 128  # four frames of the video


def test_demo_draws_a_strip_and_a_loop(run, tiny_video_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline's own size, as nothing else is asked for, is Wan's: too large for a test."""
    import diffusers

    real = diffusers.WanPipeline.__call__

    def small(self: object, prompt: list[str], num_inference_steps: int = 4, num_frames: int = 5, **more: object):
        call = {"num_inference_steps": num_inference_steps, "num_frames": num_frames, "height": 32, "width": 32}
        return real(self, prompt, **call, **more)

    monkeypatch.setattr(diffusers.WanPipeline, "__call__", small)
    result = run("demo", "-m", tiny_video_folder, "--prompt", "an owl", "--preset", "fast", "--repeats", "1")
    assert result.exit_code == 0, result.stderr
    assert {path.name for path in Path("outputs/demo").iterdir()} == {"demo.png", "demo.webp", "report.json"}
    assert "1 video of 5 frames" in result.stdout


@pytest.mark.parametrize("name", ["out.png", "out.jpg", "out.webp"])
def test_one_picture_goes_into_the_file_that_was_named(run, tiny_folder: str, name: str) -> None:
    result = run("generate", "an owl", "-m", tiny_folder, "-o", name, "--zoom", "2", *TINY)
    assert result.stdout.split() == [name]
    assert Image.open(name).size == (128, 128)
