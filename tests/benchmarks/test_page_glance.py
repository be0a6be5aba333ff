"""All certificates in one table: models one after another, the mildest preset first, the rival beside each number."""

import pytest
from pages.glance import HEADER, glance_block
from sample_reports import CLAIM, sample_report

from dit_accel.errors import ConfigError
from dit_accel.evaluation.reports.report import Effects, Report


def of(model: str, preset: str) -> Report:
    """The sample report under other names."""
    report = sample_report()
    named = [each.model_copy(update={"name": preset}) if each.kind == "plan" else each for each in report.variants]
    settings = report.settings.model_copy(update={"model": model})
    return report.model_copy(update={"settings": settings, "variants": tuple(named)})


def test_rows_are_in_the_order_of_models_and_presets() -> None:
    lines = glance_block([of("b", "turbo"), of("b", "balanced"), of("a", "fast")]).splitlines()
    assert [line.split("|")[1:3] for line in lines[2:5]] == [
        [" `b` ", ' `"balanced"` '],
        ["  ", ' `"turbo"` '],
        [" `a` ", ' `"fast"` '],
    ]
    plan, fewer = sample_report().variant("fast"), sample_report().variant("9 steps")
    assert plan.speedup is not None
    assert fewer.speedup is not None
    assert f"{plan.speedup.ratio:.2f}x ({fewer.speedup.ratio:.2f}x) | 25.0 dB (25.0) | 20.0 dB (20.0)" in lines[4]
    assert all(line.count("|") == HEADER[0].count("|") for line in lines[:5])
    assert lines[-1].startswith("`b`: 20 steps of DPMSolverMultistepScheduler, n = 2; `a`: ")


def test_equal_pictures_and_other_numbers_of_them_are_said_in_words() -> None:
    report = of("a", "lossless")
    plan = report.variant("lossless")
    assert plan.fidelity is not None
    same = plan.fidelity.model_copy(
        update={"psnr_db": plan.fidelity.psnr_db.model_copy(update={"mean": 100.0, "worst5": 100.0})}
    )
    variants = [
        each.model_copy(update={"fidelity": same}) if each.kind == "plan" else each for each in report.variants
    ]
    exact = report.model_copy(update={"variants": tuple(variants), "samples": report.samples[:1]})
    lines = glance_block([of("a", "fast"), exact]).splitlines()
    assert lines[2].endswith("x) | equal | equal | equal | 0 |") and "lossless" in lines[2]
    assert "n = 2 (1 of `lossless`)" in lines[-1]
    # As slow as plain there is no rival of its time, and none is needed.
    alone = exact.model_copy(update={"variants": tuple(each for each in variants if each.kind != "fewer_steps")})
    row = glance_block([of("a", "fast"), alone]).splitlines()[2]
    assert row.count("(") == 0 and row.endswith("x | equal | equal | equal | 0 |")


def test_a_plan_that_was_measured_elsewhere_is_told() -> None:
    here = [of("a", "fast"), of("a", "turbo")]
    there = of("b", "fast")
    there = there.model_copy(update={"environment": there.environment.model_copy(update={"cpu": "another"})})
    (where,) = [line for line in glance_block([there, *here]).splitlines() if "another" in line]
    assert where.index("a CPU, CPU") < where.index("On another, CPU") < where.rindex("`b` `fast`.")


def test_a_quantised_plan_that_saves_no_time_is_told_elsewhere() -> None:
    report = of("a", "w8a8")
    claim = CLAIM.model_copy(update={"name": "quantize"})
    variants = [
        each.model_copy(update={"effects": Effects(passes=(claim,))}) if each.kind == "plan" else each
        for each in report.variants
    ]
    slow = report.model_copy(update={"variants": tuple(variants[:2])})
    said = glance_block([of("a", "fast"), slow])
    assert "w8a8" not in said and "save memory and no time: [quantisation](docs/quantization.md)" in said
    quick = report.model_copy(update={"variants": tuple(variants)})
    assert '`"w8a8"`' in glance_block([of("a", "fast"), quick])


def test_a_report_without_a_rival_is_refused() -> None:
    report = of("a", "fast")
    alone = report.model_copy(update={"variants": report.variants[:2]})
    with pytest.raises(ConfigError, match="no variant of kind 'fewer_steps'"):
        glance_block([alone])
