"""A comparison leaves the pipeline as it was, and its report says what the plans did."""

import pytest
import torch
from tiny_text import tiny_text_pipeline
from tiny_videos import tiny_video_pipeline

from dit_accel import StaticCacheConfig, accelerate_pipeline, is_accelerated
from dit_accel.errors import ConfigError
from dit_accel.evaluation.compare.compare import compare_plans, rival_steps
from dit_accel.evaluation.compare.pictures import side_by_side
from dit_accel.evaluation.metrics.fidelity import PSNR_CAP_DB
from dit_accel.pipelines.generation import GenerationSettings, generate_images
from dit_accel.plan.plan import AccelerationPlan
from dit_accel.schedules import GeneratorSpec

SAMPLES = [("a red apple", 0), ("an owl", 5)]
SETTINGS = GenerationSettings(num_inference_steps=6)


def steps(count: int) -> GenerationSettings:
    return GenerationSettings(num_inference_steps=count)


@pytest.fixture(scope="module")
def comparison():
    plans = {
        "exact": AccelerationPlan(passes=(StaticCacheConfig(schedule=GeneratorSpec("custom", reuse={})),)),
        "fast": "fast",
    }
    return compare_plans(tiny_text_pipeline(), plans, SAMPLES, SETTINGS, model="tiny", repeats=2)


def test_exact_plan_scores_equal_and_fast_does_not(comparison) -> None:
    exact, fast = comparison.report.variant("exact"), comparison.report.variant("fast")
    assert exact.fidelity.psnr_db.per_image == (PSNR_CAP_DB, PSNR_CAP_DB)
    assert torch.equal(comparison.images["exact"], comparison.images["plain"])
    assert fast.fidelity.psnr_db.mean < 60
    assert not torch.equal(comparison.images["fast"], comparison.images["plain"])


def test_reuse_planned_is_reuse_done(comparison) -> None:
    effect = comparison.report.variant("fast").effects.main
    assert effect.actual_frac == effect.planned_frac > 0.3
    assert comparison.report.variant("plain").effects is None


def test_report_says_how_it_was_measured(comparison) -> None:
    report = comparison.report
    assert [(s.prompt, s.seed) for s in report.samples] == SAMPLES
    assert (report.settings.height, report.settings.width) == (64, 64)
    assert report.settings.num_inference_steps == 6
    assert all(len(variant.times.samples_s) == 2 for variant in report.variants)
    assert any("not certified" in note for note in report.notes)
    assert any("too few" in note for note in report.notes)


def test_fidelity_is_measured_against_the_same_prompt_and_seed(comparison) -> None:
    alone = generate_images(tiny_text_pipeline(), ["an owl"], [5], SETTINGS)
    assert torch.allclose(alone[0], comparison.images["plain"][1], atol=1e-5)


def test_pipeline_is_left_plain() -> None:
    pipe = tiny_text_pipeline()
    before = generate_images(pipe, ["an owl"], [0], SETTINGS)
    keys = set(vars(pipe.transformer))
    compare_plans(pipe, {"fast": "fast"}, SAMPLES, SETTINGS, model="tiny", repeats=1)
    assert not is_accelerated(pipe)
    assert set(vars(pipe.transformer)) == keys
    assert torch.equal(generate_images(pipe, ["an owl"], [0], SETTINGS), before)


def test_every_plan_has_a_rival_or_a_note() -> None:
    report = compare_plans(
        tiny_text_pipeline(), {"turbo": "turbo"}, SAMPLES, steps(12), model="tiny", repeats=1
    ).report
    rivals = [variant for variant in report.variants if variant.kind == "fewer_steps"]
    assert rivals or any(note.startswith("turbo: saves less time") for note in report.notes)
    for rival in rivals:
        assert rival.rival_of == "turbo"
        assert 2 <= rival.num_inference_steps < 12
        assert rival.effects is None and rival.fidelity is not None


@pytest.mark.parametrize(("target_s", "expected"), [(21.0, 20), (11.0, 10), (6.4, 5), (1.0, 2), (0.1, 2), (30.0, 20)])
def test_rival_steps_meet_the_time(target_s: float, expected: int) -> None:
    """One second of overhead and one a step: a run of k steps takes k + 1 seconds."""
    assert rival_steps(steps(20), steps(10), 21.0, 11.0, target_s) == expected


def test_rival_of_noise_is_the_plain_run() -> None:
    assert rival_steps(steps(20), steps(10), 1.0, 1.1, 0.5) == 20


def test_accelerated_pipeline_and_reserved_name_are_refused() -> None:
    pipe = tiny_text_pipeline()
    with pytest.raises(ConfigError, match="name of the reference"):
        compare_plans(pipe, {"plain": "fast"}, SAMPLES, SETTINGS, model="tiny")
    accelerate_pipeline(pipe, "fast")
    with pytest.raises(ConfigError, match="accelerated already"):
        compare_plans(pipe, {"fast": "fast"}, SAMPLES, SETTINGS, model="tiny")
    assert is_accelerated(pipe)


def test_videos_are_compared_frame_by_frame() -> None:
    clip = GenerationSettings(num_inference_steps=6, height=32, width=32, num_frames=5)
    comparison = compare_plans(tiny_video_pipeline(), {"fast": "fast"}, SAMPLES, clip, model="tiny", repeats=1)
    report = comparison.report
    assert comparison.images["fast"].shape == (2, 5, 3, 32, 32)
    assert (report.settings.num_frames, report.settings.height) == (5, 32)
    assert report.made == "2 videos of 5 frames"
    assert any(note.startswith("2 videos") for note in report.notes)
    fast = report.variant("fast")
    assert len(fast.fidelity.psnr_db.per_image) == 2
    assert fast.effects.main.actual_frac == fast.effects.main.planned_frac > 0.3


def test_picture_has_a_row_a_variant_and_a_column_a_prompt(comparison) -> None:
    two = side_by_side(comparison.report, comparison.images, order=["plain", "fast"])
    one = side_by_side(comparison.report, comparison.images, order=["plain"])
    narrow = side_by_side(comparison.report, comparison.images, order=["plain"], max_columns=1)
    assert two.height - one.height == 200  # 64 px enlarged three times, and the gap
    assert one.width - narrow.width == 200
