"""``evaluate`` as a person runs it: offline, killed and gone on with, shared out, and what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from sample_pictures import pictures

from dit_accel.evaluation.reports.report import Report
from dit_accel.pipelines.media import to_pil
from dit_accel.prompts import load_prompts

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, "-m", "dit_accel"]
EMOJI = ("evaluate", "coco", "emoji-pixart", "--num", "8", "--steps", "6", "--preset", "none", "--preset", "balanced")


@pytest.fixture
def real(tmp_path: Path) -> Path:
    for number, image in enumerate(pictures(6, px=48)):
        path = tmp_path / "real" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        to_pil(image).save(path)
    return tmp_path / "real"


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "parti.tsv"
    rows = [
        "Prompt\tCategory",
        *(f"a {color} {thing}\t{thing}" for color in ("red", "green") for thing in ("owl", "fish")),
    ]
    path.write_text("\n".join([*rows, "\tnone", "an apple\tfish"]) + "\n")
    return path


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def numbers(folder: Path) -> dict[str, Any]:
    return Report.load(folder).model_dump(mode="json", exclude={"created_utc", "environment", "command"})


@pytest.mark.slow
def test_emoji_pixart_offline_killed_half_way_and_gone_on_with(tmp_path: Path, real: Path) -> None:
    command = [*PROGRAM, *EMOJI, "--reference", str(real), "-o"]
    process = subprocess.Popen([*command, "parts"], cwd=tmp_path, env=environment(), stderr=subprocess.DEVNULL)
    begun = time.monotonic()
    first = tmp_path / "parts" / "progress" / "plain" / "drawn" / "000000.json"
    while not first.exists() and time.monotonic() - begun < 200:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = sorted((tmp_path / "parts" / "images").glob("*/*.png"))
    assert left and not (tmp_path / "parts" / "report.json").exists()
    made = left[0].stat().st_mtime_ns
    outputs = {}
    for folder in ("parts", "whole"):
        done = subprocess.run(
            [*command, folder], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr
        outputs[folder] = done
    assert numbers(tmp_path / "parts") == numbers(tmp_path / "whole")
    assert left[0].stat().st_mtime_ns == made, "what was complete was drawn again"
    words = outputs["whole"].stdout
    assert "FD-EffNetLite0" in words and "emoji-two-tower" in words and "FID" not in words
    assert "fewer than 10000, is biased upwards" in " ".join(outputs["whole"].stderr.split())
    assert "drawing plain" in outputs["whole"].stderr
    report = Report.load(tmp_path / "whole")
    quality = report.variant("balanced").quality
    assert quality is not None and {each.name for each in quality.distances} == {"FD-EffNetLite0", "KD-EffNetLite0"}
    assert str(tmp_path) not in (tmp_path / "whole" / "report.json").read_text()


@pytest.mark.slow
def test_shared_out_over_processes(tmp_path: Path, tiny_folder: str, prompts: Path) -> None:
    """Two processes find the same numbers as one. (On CPUs accelerate's own launcher starts one only.)"""
    rest = ["evaluate", "fidelity", tiny_folder, "--preset", "fast", "--prompts", str(prompts), "--steps", "6"]
    rest += ["--batch-size", "1", "--device", "cpu", "--threads", "1", "-o"]
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "dit_accel",
    ]
    outputs = []
    for folder, start in (("two", launch), ("one", PROGRAM)):
        done = subprocess.run(
            [*start, *rest, folder], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr
        outputs.append(done)
    assert numbers(tmp_path / "two") == numbers(tmp_path / "one")
    assert "share 1 of 2" in outputs[0].stderr and outputs[0].stdout.count("evaluation fidelity") == 1


def test_bad_lines_and_folders_of_images(run, tmp_path: Path, prompts: Path, real: Path) -> None:
    for name in ("mine", "theirs"):
        (tmp_path / name).mkdir()
        for number in (0, 1, 2, 3, 5):
            to_pil(pictures(1, seed=number)[0]).save(tmp_path / name / f"{number:06}.png")
    (tmp_path / "mine" / "000002.png").write_bytes(b"broken")
    arguments = ("evaluate", "parti", "--images", str(tmp_path / "mine"), "--images", f"other={tmp_path / 'theirs'}")
    arguments += ("--prompts", str(prompts), "--judge", "emoji-two-tower", "-o", "out")
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    assert "left out: parti.tsv, line 6: no prompt" in result.stderr
    assert "left out: 000002: not a readable image" in result.stdout
    report = Report.load("out")
    assert report.num_images == 4 and [variant.name for variant in report.variants] == ["mine", "other"]
    quality = report.variant("mine").quality
    assert quality is not None and set(quality.categories) == {"owl", "fish"}
    shown = run("report", "out")
    assert "emoji-two-tower" in shown.stdout and "  owl" in shown.stdout
    assert json.loads(run(*arguments, "--json").stdout)["evaluation"]["suite"] == "parti"
    # Two evaluations side by side: same prompts, so that numbers compare, by interval.
    run("evaluate", "parti", "--images", f"mine={tmp_path / 'theirs'}", *arguments[6:-2], "-o", "again")
    both = run("report", "out", "again")
    assert both.exit_code == 0 and "emoji-two-tower" in both.stdout


def test_coco_of_a_tiny_model(run, tiny_folder: str, tmp_path: Path, real: Path) -> None:
    captions = tmp_path / "captions_val2014.json"
    captions.write_text(
        json.dumps({"annotations": [{"image_id": k, "caption": f"a red {k} apple"} for k in range(5)] + [{"id": 1}]})
    )
    arguments = ["evaluate", "coco", tiny_folder, "--prompts", str(captions), "--reference", str(real), "--steps", "4"]
    missing = run(*arguments)
    assert missing.exit_code == 2 and "weights-inception-2015" in missing.stderr and "--download" in missing.stderr
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "weights-inception-2015-12-05-6726825d.pth").write_bytes(b"no")
    wrong = run(*arguments, "--weights", str(weights), "--judge", "none")
    assert wrong.exit_code == 2 and "may not be called FID" in wrong.stderr
    offline = run(*arguments, "--network", "effnet-lite0", "--judge", "none", "-o", "out")
    assert offline.exit_code == 0, offline.stderr
    quality = Report.load("out").variant("plain").quality
    assert quality is not None and quality.distances[0].name == "FD-EffNetLite0"
    assert (
        quality.distances[0].crop == "the largest square in the middle" and "256 x 256" in quality.distances[0].resize
    )
    assert "FID" not in offline.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("cocoa",), "Did you mean 'coco'"),
        (("coco",), "needs its prompts: --prompts captions_val2014.json"),
        (("fidelity",), "nothing to evaluate"),
        (("fidelity", "emoji-pixart"), "say what to compare"),
        (("fidelity", "--preset", "fast"), "needs a pipeline"),
        (("coco", "emoji-pixart"), "--reference FOLDER"),
        (("coco", "emoji-pixart", "--reference", "empty"), "holds no image"),
        (("coco", "emoji-pixart", "--judge", "clp"), "Did you mean 'clip'"),
        (("coco", "emoji-pixart", "--crop", "middle"), "'none' or 'center'"),
        (("parti", "--images", "nowhere", "--prompts", "p.txt"), "no folder of images at 'nowhere'"),
        (("parti", "emoji-pixart", "--prompts", "bad.txt"), "holds no usable prompt"),
        (("fidelity", "emoji-pixart", "--preset", "fst"), "Did you mean 'fast'"),
    ],
)
def test_bad_input(run, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.txt").write_bytes(b"\xff\n")
    result = run("evaluate", *arguments)
    assert result.exit_code == 2 and words in " ".join(result.stderr.split()) and result.stdout == ""
    assert "loading" not in result.stderr and not (tmp_path / "outputs").exists()


def test_fidelity_of_a_video_model_takes_the_prompts_for_videos(run, tiny_video_folder: str) -> None:
    size = ("--frames", "5", "--height", "32", "--width", "32")
    result = run("evaluate", "fidelity", tiny_video_folder, "--preset", "fast", "--num", "1", "--steps", "6", *size)
    assert result.exit_code == 0, result.stderr
    (folder,) = Path("outputs/evaluate").iterdir()
    report = Report.load(folder)
    assert report.samples[0].prompt == load_prompts("certify", "video").prompts[0]
    assert report.settings.num_frames == 5 and report.settings.batch_size == 1
    fidelity = report.variant("fast").fidelity
    assert fidelity is not None and fidelity.video is not None
