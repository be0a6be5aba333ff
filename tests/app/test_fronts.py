"""The data behind the explorer: fronts from shipped plans and reports, and the ways to choose a point."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from sample_reports import sample_report

from dit_accel.app.choose import by_label, by_quality, by_time, choosable
from dit_accel.app.fronts import assemble, front_of_model, models, same_work
from dit_accel.app.plans import checked, plans_of, read_plan_folder, shipped_folder
from dit_accel.app.points import CERTIFIED, NOT_CERTIFIED, Front, FrontPoint, unbeaten
from dit_accel.errors import ConfigError
from dit_accel.evaluation.reports.contest import Action, Contender
from dit_accel.evaluation.reports.report import Report
from dit_accel.plan.certificate import Measured

FLUX = shipped_folder() / "emoji-flux"


def measured(mean: float) -> Measured:
    return Measured(mean=mean, ci95=(mean, mean), worst5=mean)


def point(key: str, ratio: float, psnr: float, kind: str = "ours") -> FrontPoint:
    return FrontPoint(
        key=key,
        label=key,
        kind=kind,  # type: ignore[arg-type]
        num_steps=20,
        ratio=ratio,
        errors={"psnr_db": measured(psnr)},
    )


@pytest.fixture
def made_up() -> Front:
    plain = FrontPoint(key="plain", label="plain", kind="plain", num_steps=20)
    points = (
        plain,
        point("a", 2.0, 40.0),
        point("b", 4.0, 30.0),
        point("beaten", 1.9, 35.0, "fewer_steps"),
        point("other", 5.0, 50.0, "rival"),
    )
    return Front(model="m", points=points, plain_s=1.0)


def test_the_first_page_needs_no_torch() -> None:
    code = (
        "import sys; from dit_accel.app.fronts import front_of_model; f = front_of_model('emoji-flux', []); "
        "print(len(f.points) > 4, [n for n in ('torch', 'diffusers', 'gradio') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True []"


@pytest.mark.parametrize("model", models())
def test_every_shipped_plan_of_speed_is_a_point(model: str) -> None:
    front = front_of_model(model, [])
    assert front.points[0].kind == "plain"
    folders = {path.name for path in (shipped_folder() / model).iterdir()}
    assert {p.folder.name for p in front.points if p.folder} == folders - {"w8a8", "w4a8"}
    for each in front.points:
        assert (each.state == CERTIFIED) <= (each.ratio is not None and each.n >= 100)
        assert each.kind != "ours" or each.words


def test_numbers_are_those_of_the_report() -> None:
    front = front_of_model("emoji-flux", [])
    report = Report.load(FLUX / "fast")
    variant = report.variant("fast")
    assert variant.speedup and variant.fidelity
    fast = front.point("ours/fast")
    assert fast.ratio == variant.speedup.ratio
    assert fast.errors["psnr_db"].mean == variant.fidelity.psnr_db.mean
    assert fast.state == CERTIFIED and checked(FLUX / "fast") == ""
    few = next(each for each in report.variants if each.kind == "fewer_steps")
    assert front.point(f"fewer/{few.num_inference_steps}").n == report.num_images


def test_the_worst_prompts_are_shown_first() -> None:
    report = Report.load(FLUX / "fast")
    fidelity = report.variant("fast").fidelity
    assert fidelity
    shown = front_of_model("emoji-flux", []).point("ours/fast").shown
    assert [each.place for each in shown] == ["worst 5 %", "worst 5 %", "typical", "typical"]
    assert shown[0].psnr_db == min(fidelity.psnr_db.per_image)


def test_a_changed_plan_is_no_longer_certified(tmp_path: Path) -> None:
    folder = tmp_path / "fast"
    shutil.copytree(FLUX / "fast", folder)
    path = folder / "dit_accel_plan.json"
    data = json.loads(path.read_text())
    data["passes"][0]["guard"] = [0.5] * 28
    path.write_text(json.dumps(data))
    assert "changed after it was certified" in checked(folder)


def test_a_report_of_another_run_is_not_the_certificates(tmp_path: Path) -> None:
    folder = tmp_path / "fast"
    shutil.copytree(FLUX / "fast", folder)
    shutil.copy(FLUX / "turbo" / "report.json", folder / "report.json")
    plan = read_plan_folder(folder)
    assert plan.report is None and "does not lie beside it" in plan.why_not
    front = assemble("emoji-flux", [plan], [])
    assert front.point("ours/fast").ratio is None and front.point("ours/fast").state == NOT_CERTIFIED


def test_a_damaged_folder_is_said_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "dit_accel_plan.json").write_text("{")
    shutil.copytree(FLUX / "fast", tmp_path / "good")
    plans, faults = plans_of(tmp_path)
    assert [plan.name for plan in plans] == ["fast"]
    assert len(faults) == 1 and "not valid JSON" in faults[0]


def contest(share: float) -> Report:
    """A comparison in which our preset ``fast`` saved this share of every kind of layer."""
    report = sample_report()
    action = Action(calls=1, plain_calls=4, macs=1, plain_macs=4, saved_by_kind={"ff": share, "rest": share})
    contender = Contender(
        rival="dit-accel",
        method="ours",
        made_by="us",
        advice="",
        advised=True,
        params={"preset": "fast"},
        action=action,
    )
    variants = [v.model_copy(update={"contender": contender}) if v.kind == "plan" else v for v in report.variants]
    return report.model_copy(update={"variants": tuple(variants)})


def test_numbers_among_rivals_count_only_for_the_plan_that_did_that_work() -> None:
    plan = replace(read_plan_folder(FLUX / "fast"), certificate=None, report=None)
    share = plan.answered_frac
    assert share is not None
    same, other = contest(share), contest(share / 2)
    assert same_work(plan, same.variant("fast")) and not same_work(plan, other.variant("fast"))
    front = assemble("emoji-flux", [plan], [same])
    assert front.point("ours/fast").ratio == same.variant("fast").speedup.ratio  # type: ignore[union-attr]
    assert front.point("ours/fast").state == NOT_CERTIFIED
    assert not any(each.kind == "rival" for each in front.points)
    front = assemble("emoji-flux", [plan], [other])
    assert front.point("ours/fast").ratio is None
    assert "not what this name gives today" in front.point("rival/fast").words[0]


def test_fewer_steps_are_there_without_the_rivals(made_up: Front) -> None:
    assert [each.key for each in made_up.visible(rivals=False)] == ["plain", "a", "b", "beaten"]


def test_unbeaten(made_up: Front) -> None:
    assert [p.key for p in unbeaten(made_up.visible(rivals=False), "psnr_db")] == ["plain", "a", "b"]
    assert [p.key for p in unbeaten(made_up.points, "psnr_db")] == ["plain", "other"]


def test_every_gesture_leads_to_the_same_point(made_up: Front) -> None:
    wanted = made_up.point("a")
    assert by_time(made_up, "psnr_db", 0.5) == wanted
    assert by_time(made_up, "psnr_db", 0.6, 0.4) == wanted
    assert by_quality(made_up, "psnr_db", 38.0) == wanted
    assert by_label(made_up.visible(rivals=False), "a") == wanted


def test_limits_never_lead_to_a_rival(made_up: Front) -> None:
    assert "other" not in [each.key for each in choosable(made_up, "psnr_db")]
    assert by_quality(made_up, "psnr_db", 49.0).key == "plain"


@pytest.mark.parametrize("model", models())
def test_what_is_shown_of_a_point_leads_back_to_it(model: str) -> None:
    """Dials round; a point of the front is still found by the time and by the error that are written on it."""
    from dit_accel.app import show

    front = front_of_model(model, [])
    for metric in front.metrics:
        for each in unbeaten(choosable(front, metric), metric):
            if each.kind == "plain":
                continue
            seconds = front.time_s(each)
            assert seconds is not None
            assert by_time(front, metric, float(f"{seconds:.3g}")) == each
            dial = show.quality_dial([p for p in front.points if p.kind != "plain"], each, metric)
            written = float(dial.split('value="')[1].split('"')[0])
            found = by_quality(front, metric, written)
            assert found.ratio is not None and each.ratio is not None and found.ratio >= each.ratio
            shown = [show.number(metric, p.errors[metric].mean) for p in (found, each)]
            assert found == each or shown[0] == shown[1]


@pytest.mark.parametrize(("most", "least"), [(0.1, 0.0), (0.3, 0.26)])
def test_out_of_reach_says_what_is_near(made_up: Front, most: float, least: float) -> None:
    with pytest.raises(ConfigError, match=r"the nearest, b, takes 0\.25 s"):
        by_time(made_up, "psnr_db", most, least)


def test_an_untimed_front_and_an_unknown_row(made_up: Front) -> None:
    with pytest.raises(ConfigError, match="nothing of 'm' was timed"):
        by_time(replace(made_up, plain_s=None), "psnr_db", 1.0)
    with pytest.raises(ConfigError, match=r"no point called 'beatn'\. Did you mean 'beaten'"):
        by_label(made_up.points, "beatn")
    with pytest.raises(ConfigError, match="Did you mean 'plain'"):
        made_up.point("plian")


def test_plans_of_few_bits_are_no_points_of_speed() -> None:
    assert (shipped_folder() / "emoji-flux" / "w8a8").is_dir()
    labels = [point.label for point in front_of_model("emoji-flux").points if point.kind == "ours"]
    assert "fast" in labels and "w8a8" not in labels and "w4a8" not in labels


def test_the_plain_time_is_the_least_disturbed_of_one_machine() -> None:
    report = sample_report()
    plain = report.variants[0]
    assert plain.times is not None
    slow = plain.model_copy(update={"times": plain.times.model_copy(update={"median_s": 3 * plain.times.median_s})})
    busy = report.model_copy(update={"variants": (slow, *report.variants[1:])})
    alone = assemble("m", [], [report]).plain_s
    assert alone is not None and assemble("m", [], [busy]).plain_s == pytest.approx(3 * alone)
    assert assemble("m", [], [busy, report]).plain_s == alone
    quick = slow.model_copy(update={"times": plain.times.model_copy(update={"median_s": plain.times.median_s / 9})})
    other = report.environment.model_copy(update={"cpu": "another"})
    elsewhere = report.model_copy(update={"variants": (quick, *report.variants[1:]), "environment": other})
    assert assemble("m", [], [busy, elsewhere]).plain_s == pytest.approx(3 * alone)
