"""``certify``: plan, certificate and report in one folder, shown in words by the other commands."""

import json
from pathlib import Path

import pytest

from dit_accel import TrajectoryConfig
from dit_accel.errors import ConfigError
from dit_accel.evaluation.reports.report import Report
from dit_accel.plan.plan import AccelerationPlan

SMALL = ("--num-prompts", "2", "--batch-size", "2", "--repeats", "1", "--steps", "6")


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dit_accel.plan.certificate.MIN_IMAGES", 2)
    for place in ("certify", "compare"):
        monkeypatch.setattr(f"dit_accel.evaluation.{place}.{place}.available_perceptual", lambda: ())


def test_certify_show_generate_and_report(run, tiny_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("certify", tiny_folder, "--preset", "balanced", "-o", "plans/tiny/balanced", *SMALL)
    assert result.exit_code == 0, result.stderr
    assert "on 2 held-out prompts (tiny-pipeline" in result.stdout and "not measured:" in result.stdout
    folder = Path("plans/tiny/balanced").resolve()
    plan = AccelerationPlan.from_pretrained(folder)
    assert plan.is_certified
    assert tiny_folder not in (folder / "report.json").read_text() + (folder / "dit_accel_plan.json").read_text()
    assert "certificate of plan 'balanced', made from this report" in run("report", str(folder)).stdout
    drawn = run("generate", "an owl", "-m", tiny_folder, "--plan", str(folder), "--steps", "8")
    assert "does not cover this run: denoiser evaluations: 8 instead of 6" in drawn.stderr
    assert "plan 'balanced' (certified)" in drawn.stderr
    strict = run("generate", "an owl", "-m", tiny_folder, "--plan", str(folder), "--steps", "8", "--strict")
    assert strict.exit_code == 2 and "does not cover this run" in strict.stderr

    # Shipped: found by the preset's name and the model's fingerprint.
    monkeypatch.setattr("dit_accel.session.presets.resources.files", lambda package: Path.cwd())
    shown = run("presets", "show", "balanced", "--model", tiny_folder).stdout
    assert "PixArtTransformer2DModel: certified" in shown and "held-out prompts" in shown
    assert "not certified" in run("presets", "show", "fast", "--model", tiny_folder).stdout
    data = json.loads((folder / "dit_accel_plan.json").read_text())
    data["passes"][0]["schedule"]["params"]["n"] = 9
    (folder / "dit_accel_plan.json").write_text(json.dumps(data))
    shown = run("presets", "show", "balanced", "--model", tiny_folder).stdout
    assert "not certified" in shown and "changed after it was certified" in shown and "held-out" not in shown


def test_a_small_one_is_a_report_only(run, tiny_folder: str) -> None:
    arguments = ("certify", tiny_folder, "--preset", "fast", "-o", "small", *SMALL[2:], "--num-prompts", "1")
    refused = run(*arguments)
    assert refused.exit_code == 2 and "1 images are too few: a certificate takes 2" in refused.stderr
    result = run(*arguments, "--allow-small", "--json")
    assert json.loads(result.stdout) == {"folder": "small", "certified": False, "certificate": None}
    assert any("not a certificate" in note for note in Report.load("small").notes)


def test_theory_s_plan_is_certified_by_its_speed_up(run, tiny_folder: str) -> None:
    result = run("certify", tiny_folder, "--speedup", "2", "-o", "theory", *SMALL)
    assert result.exit_code == 0, result.stderr
    plan = AccelerationPlan.from_pretrained("theory")
    assert plan.is_certified and plan.name == "theory-2x" and plan.passes[0].speedup == 2.0 and not plan.notes


def test_bad_input(run, tiny_folder: str) -> None:
    for arguments, words in [
        ((), "say what to certify"),
        (("--preset", "none"), "nothing to certify"),
        (("--preset", "fst"), "Did you mean 'fast'?"),
        (("--preset", "fast", "--plan", "x"), "exclude each other"),
        (("--speedup", "2", "--plan", "x"), "exclude each other"),
        (("--preset", "fast", "--prompts", "nowhere.txt"), "cannot read prompts"),
        (("--plan", "nowhere.json"), "no plan at"),
    ]:
        result = run("certify", tiny_folder, *arguments)
        assert result.exit_code == 2 and words in result.stderr and result.stdout == ""
        assert "loading" not in result.stderr


def test_the_folder_is_called_as_the_plan_is(run, tiny_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def certify(pipe, plan, folder: Path, **more) -> None:
        raise ConfigError(f"into {folder.name}")

    monkeypatch.setattr("dit_accel.evaluation.certify.certify.certify", certify)
    AccelerationPlan(passes=(TrajectoryConfig(speedup=2.0),)).save_pretrained("plans/03-1.93x")
    result = run("certify", tiny_folder, "--plan", "plans/03-1.93x")
    assert result.exit_code == 2 and result.stderr.rstrip().endswith("-03-1.93x")
