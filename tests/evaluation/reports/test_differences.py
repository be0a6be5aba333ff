"""Reports side by side: what differs comes first, and a verdict only where one can be given."""

from typing import Any

from sample_reports import sample_report

from dit_accel.evaluation.reports.differences import Differences, compare_reports
from dit_accel.evaluation.reports.records import Metric
from dit_accel.evaluation.reports.report import Report, ReportSample
from dit_accel.evaluation.reports.times import Speedup


def changed(part: str, **fields: Any) -> Report:
    report = sample_report()
    return report.model_copy(update={part: getattr(report, part).model_copy(update=fields)})


def with_plan(report: Report, **fields: Any) -> Report:
    plain, fast, few = report.variants
    return report.model_copy(update={"variants": (plain, fast.model_copy(update=fields), few)})


def with_psnr(*values: float) -> Report:
    report = sample_report()
    fidelity = report.variant("fast").fidelity
    return with_plan(report, fidelity=fidelity.model_copy(update={"psnr_db": Metric.of(values)}))


def verdicts(found: Differences, variant: str = "fast") -> dict[str, str]:
    return {row.metric: row.verdict for row in found.rows if row.variant == variant}


def test_equal_reports_show_no_difference() -> None:
    found = compare_reports([sample_report(), sample_report()], "AB")
    assert found.differences == ()
    assert {row.variant for row in found.rows} == {"fast", "fewer steps, rival of fast"}
    assert set(verdicts(found).values()) == {"no difference shown: intervals overlap"}


def test_a_verdict_where_intervals_do_not_overlap() -> None:
    found = compare_reports([with_psnr(30.0, 31.0), with_psnr(40.0, 41.0), with_psnr(20.0, 21.0)], "ABC")
    assert verdicts(found)["psnr_db"] == "B is better"
    assert verdicts(found)["ssim"].startswith("no difference shown")
    row = next(row for row in found.rows if row.metric == "psnr_db")
    assert [cell.value for cell in row.cells] == [30.5, 40.5, 20.5]
    assert row.cells[1].worst5 == 40.0


def test_overlap_with_one_of_three_is_no_verdict() -> None:
    found = compare_reports([with_psnr(40.0, 42.0), with_psnr(41.0, 43.0), with_psnr(20.0, 21.0)], "ABC")
    assert verdicts(found)["psnr_db"].startswith("no difference shown")


def test_lower_is_better_for_perceptual_distances() -> None:
    def with_lpips(*values: float) -> Report:
        lpips = Metric.of(values, higher_is_better=False)
        report = sample_report()
        return with_plan(report, fidelity=report.variant("fast").fidelity.model_copy(update={"lpips": lpips}))

    found = compare_reports([with_lpips(0.1, 0.11), with_lpips(0.3, 0.31)], "AB")
    assert verdicts(found)["lpips"] == "A is better"
    one_sided = compare_reports([with_lpips(0.1, 0.11), sample_report()], "AB")
    assert verdicts(one_sided)["lpips"] == "not measured in every report"


def test_another_machine_forbids_speed_only() -> None:
    found = compare_reports([sample_report(), changed("environment", cpu="another CPU")], "AB")
    (difference,) = found.differences
    assert (difference.what, difference.values) == ("machine: cpu", ("a CPU", "another CPU"))
    assert verdicts(found)["speedup"] == "not comparable: differs in machine: cpu"
    assert verdicts(found)["psnr_db"].startswith("no difference shown")


def test_other_settings_forbid_everything() -> None:
    found = compare_reports([sample_report(), changed("settings", num_inference_steps=50)], "AB")
    assert set(verdicts(found).values()) == {"not comparable: differs in settings: num_inference_steps"}


def test_other_prompts_or_seeds_forbid_fidelity() -> None:
    report = sample_report()
    seeds = report.model_copy(update={"samples": tuple(s.model_copy(update={"seed": 7}) for s in report.samples)})
    prompts = report.model_copy(update={"samples": (ReportSample(prompt="a fish", seed=0), report.samples[1])})
    for other, what in ((seeds, "seeds"), (prompts, "prompts")):
        found = compare_reports([report, other], "AB")
        assert [difference.what for difference in found.differences] == [what]
        assert verdicts(found)["psnr_db"] == f"not comparable: differs in {what}"


def test_software_is_named_and_forbids_nothing() -> None:
    found = compare_reports(
        [sample_report(), changed("environment", git_revision="abc", packages={"torch": "3"})], "AB"
    )
    assert [each.what for each in found.differences] == ["software: git_revision", "software: torch"]
    assert found.differences[1].values == ("none", "3")
    assert verdicts(found)["psnr_db"].startswith("no difference shown")


def test_single_plans_of_other_names_are_set_against_each_other() -> None:
    found = compare_reports([sample_report(), with_plan(sample_report(), name="turbo")], "AB")
    assert {row.variant for row in found.rows} == {"plan", "fewer steps"}
    assert all(None not in row.cells for row in found.rows)


def test_speed_ups_of_old_reports_have_no_intervals_to_judge_by() -> None:
    old = with_plan(sample_report(), speedup=Speedup(ratio=9.0, iqr=(8.9, 9.1)))
    assert verdicts(compare_reports([sample_report(), old], "AB"))["speedup"] == "no intervals to judge by"
