"""``demo``: a picture, a report, and a table that reads the report."""

import json
from pathlib import Path

from PIL import Image

from dit_accel.cli.demo import NUM_PROMPTS, demo_prompts
from dit_accel.evaluation.reports.report import Report


def test_demo_on_a_tiny_pipeline(run, tiny_folder: str) -> None:
    result = run(
        "demo", "-m", tiny_folder, "--prompt", "an owl", "--preset", "turbo", "--steps", "8", "--repeats", "1"
    )
    assert result.exit_code == 0
    report = Report.load(Path("outputs/demo"))
    assert [variant.kind for variant in report.variants][:2] == ["plain", "plan"]
    turbo = report.variant("turbo")
    for number in (
        f"{turbo.speedup.ratio:.2f}x",
        f"{turbo.fidelity.ssim.mean:.3f}",
        f"{turbo.effects.main.actual_frac:.0%}",
    ):
        assert number in result.stdout
    picture = Image.open("outputs/demo/demo.png")
    assert picture.height > 192 * len(report.variants)
    assert report.command


def test_demo_prompts_are_the_shipped_ones_or_words_of_ours() -> None:
    prompts = demo_prompts(video=False)
    assert all("moves" in text or "grows" in text for text in demo_prompts(video=True))
    assert len(prompts) == NUM_PROMPTS
    assert all(prompt and prompt == prompt.strip() for prompt in prompts)


def test_demo_json_is_the_report(run, tiny_folder: str) -> None:
    arguments = ("demo", "-m", tiny_folder, "--prompt", "an owl", "--preset", "fast", "--steps", "4", "--repeats", "1")
    result = run(*arguments, "--json", "-o", "here")
    assert json.loads(result.stdout) == json.loads(Path("here/report.json").read_text())
