"""``generate``: files, seeds, JSON, comparison."""

import json
from pathlib import Path

from PIL import Image, ImageChops

from dit_accel.evaluation.reports.report import Report

TINY = ("--steps", "4", "--device", "cpu")


def same(first: str | Path, second: str | Path) -> bool:
    return ImageChops.difference(Image.open(first), Image.open(second)).getbbox() is None


def test_pictures_are_written_and_listed(run, tiny_folder: str) -> None:
    result = run("generate", "a red apple", "an owl", "-m", tiny_folder, "--num-images", "2", "-o", "out", *TINY)
    assert result.exit_code == 0
    files = result.stdout.split()
    assert [Path(file).name for file in files] == [
        "a-red-apple_seed0.png",
        "a-red-apple_seed1.png",
        "an-owl_seed0.png",
        "an-owl_seed1.png",
    ]
    assert all(Image.open(file).size == (64, 64) for file in files)
    assert not same(files[0], files[1])
    assert "plan 'balanced' (not certified)" in result.stderr


def test_json_is_all_that_stdout_holds(run, tiny_folder: str) -> None:
    result = run("generate", "an owl", "-m", tiny_folder, "--preset", "fast", "--json", *TINY)
    data = json.loads(result.stdout)
    assert data["plan"] == "fast"
    assert data["certified"] is False
    assert [e["actual_frac"] for e in data["effects"]["passes"]] == [
        e["planned_frac"] for e in data["effects"]["passes"]
    ]
    assert Path(data["files"][0]).is_file()


def test_preset_none_is_plain_and_others_are_not(run, tiny_folder: str) -> None:
    run("generate", "an owl", "-m", tiny_folder, "--preset", "none", "-o", "plain", *TINY)
    run("generate", "an owl", "-m", tiny_folder, "--preset", "lossless", "-o", "lossless", *TINY)
    run("generate", "an owl", "-m", tiny_folder, "--preset", "turbo", "-o", "turbo", *TINY)
    assert same("plain/an-owl_seed0.png", "lossless/an-owl_seed0.png")
    assert not same("plain/an-owl_seed0.png", "turbo/an-owl_seed0.png")


def test_a_saved_plan_does_what_its_preset_does(run, tiny_folder: str) -> None:
    shown = run("presets", "show", "fast", "-m", tiny_folder, "--json")
    Path("plan.json").write_text(shown.stdout)
    run("generate", "an owl", "-m", tiny_folder, "--preset", "fast", "-o", "preset", *TINY)
    result = run("generate", "an owl", "-m", tiny_folder, "--plan", "plan.json", "-o", "plan", *TINY)
    assert result.exit_code == 0
    assert same("preset/an-owl_seed0.png", "plan/an-owl_seed0.png")


def test_compare_writes_both_pictures_and_a_report(run, tiny_folder: str) -> None:
    result = run("generate", "an owl", "-m", tiny_folder, "--preset", "turbo", "--compare", "-o", "out", *TINY)
    assert result.exit_code == 0
    names = {path.name for path in Path("out").iterdir()}
    assert names == {"an-owl_seed0.png", "an-owl_seed0_plain.png", "compare.png", "report.json"}
    report = Report.load("out")
    assert report.variant("turbo").fidelity is not None
    assert f"{report.variant('turbo').fidelity.psnr_db.mean:.1f}" in result.stdout
    run("generate", "an owl", "-m", tiny_folder, "--preset", "none", "-o", "plain", *TINY)
    assert same("out/an-owl_seed0_plain.png", "plain/an-owl_seed0.png")


def test_limits_choose_the_plan(run, tiny_folder: str) -> None:
    result = run("generate", "an owl", "-m", tiny_folder, "--min-speedup", "2", "--json", *TINY)
    data = json.loads(result.stdout)
    assert data["plan"] == "theory-2x" and data["certified"] is False
    assert f"dit-accel certify {tiny_folder} --speedup 2" in data["notes"][0]
    result = run("generate", "an owl", "-m", tiny_folder, "--max-lpips", "0.05", *TINY)
    assert result.exit_code == 2
    assert f"Find one: dit-accel calibrate {tiny_folder} --max-lpips 0.05" in " ".join(result.stderr.split())
    result = run("generate", "an owl", "--preset", "fast", "--max-lpips", "0.05")
    assert result.exit_code == 2 and "exclude each other" in result.stderr
