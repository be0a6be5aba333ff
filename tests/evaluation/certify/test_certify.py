"""Certifying: the numbers, going on after a kill with equal ones, and what is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_text import tiny_text_pipeline
from tiny_videos import tiny_video_pipeline
from toy_passes import ScaleConfig, registered, scale_pass

import dit_accel.evaluation.certify.certify as module
from dit_accel import (
    AccelerationPlan,
    GeneratorSpec,
    Schedule,
    StaticCacheConfig,
    accelerate_pipeline,
    certify,
    is_accelerated,
    summary,
)
from dit_accel.errors import ConfigError, PlanMismatchError
from dit_accel.evaluation.certify.job import PROGRESS
from dit_accel.evaluation.metrics.fidelity import fidelity
from dit_accel.evaluation.reports.report import Report
from dit_accel.pipelines.generation import GenerationSettings, generate
from dit_accel.plan.plan import PLAN_FILE
from dit_accel.prompts import load_prompts

SETTINGS = GenerationSettings(num_inference_steps=6)
PROMPTS = load_prompts("certify").prompts
BALANCED = StaticCacheConfig(schedule=GeneratorSpec("every_n", n=2))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate of five images or two videos, and no networks."""
    monkeypatch.setattr("dit_accel.plan.certificate.MIN_IMAGES", 5)
    monkeypatch.setattr("dit_accel.plan.certificate.MIN_VIDEOS", 2)
    for place in ("certify", "compare"):
        monkeypatch.setattr(f"dit_accel.evaluation.{place}.{place}.available_perceptual", lambda: ())


def run(folder: Path, plan: Any = "balanced", pipe: Any = None, **more: Any) -> AccelerationPlan:
    arguments = {"settings": SETTINGS, "num_prompts": 5, "batch_size": 2, "repeats": 2, **more}
    return certify(pipe or tiny_text_pipeline(), plan, folder, model="tiny", **arguments)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[AccelerationPlan, Path]:
    folder = tmp_path_factory.mktemp("certified") / "fast"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dit_accel.plan.certificate.MIN_IMAGES", 5)
        for place in ("certify", "compare"):
            patch.setattr(f"dit_accel.evaluation.{place}.{place}.available_perceptual", lambda: ())
        return run(folder, "fast"), folder


def test_plan_certificate_and_report_are_saved_together(done: tuple[AccelerationPlan, Path]) -> None:
    plan, folder = done
    assert plan.is_certified and plan.name == "fast" and plan.notes == ()
    assert sorted(path.name for path in folder.iterdir()) == [PLAN_FILE, "report.json"]
    again = AccelerationPlan.from_pretrained(folder)
    assert again == plan and again.is_certified
    assert plan.certificate.is_of_report(folder / "report.json")
    report = Report.load(folder)
    own, certificate = report.variant("fast"), plan.certificate
    assert certificate.fidelity["psnr_db"].mean == own.fidelity.psnr_db.mean
    assert certificate.fidelity["ssim"].worst5 == own.fidelity.ssim.worst5
    assert certificate.speed.denoiser_ratio == own.denoiser.speedup.ratio
    assert certificate.prompts.n == len(own.fidelity.psnr_db.per_image) == 5
    assert (report.settings.num_timed, report.settings.prompt_list) == (2, "certify")
    assert [sample.prompt for sample in report.samples] == list(PROMPTS[:5])
    assert not [note for note in report.notes if "certif" in note]


def test_the_numbers_are_those_of_plain_and_accelerated_pictures(done: tuple[AccelerationPlan, Path]) -> None:
    folder = done[1]
    plain_pipe, fast_pipe = tiny_text_pipeline(), accelerate_pipeline(tiny_text_pipeline(), "fast")
    call = (PROMPTS[:5], range(5), SETTINGS)
    scores = fidelity(generate(fast_pipe, *call, batch_size=2), generate(plain_pipe, *call, batch_size=2))
    own = Report.load(folder).variant("fast")
    assert own.fidelity.psnr_db.per_image == pytest.approx(scores.psnr_db)
    assert own.effects.main.actual_frac == own.effects.main.planned_frac > 0.3


def test_plain_pictures_are_drawn_once_for_several_plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[int]] = []

    def counted(pipe: Any, prompts: list[str], seeds: list[int], settings: GenerationSettings) -> torch.Tensor:
        if not is_accelerated(pipe) and settings.num_inference_steps == SETTINGS.num_inference_steps:
            drawn.append(seeds)
        return generate(pipe, prompts, seeds, settings)

    monkeypatch.setattr(module, "generate", counted)
    alone = run(tmp_path / "alone", "fast", rival=False)
    assert drawn == [[0, 1], [2, 3], [4]]
    drawn.clear()
    run(tmp_path / "first", "balanced", rival=False, plain_folder=tmp_path / "plain")
    assert drawn == [[0, 1], [2, 3], [4]]
    drawn.clear()
    later = module.collect_environment().model_copy(update={"git_revision": "of-a-later-commit"})
    monkeypatch.setattr(module, "collect_environment", lambda: later)
    shared = run(tmp_path / "second", "fast", rival=False, plain_folder=tmp_path / "plain")
    assert drawn == []
    assert shared.certificate.fidelity == alone.certificate.fidelity
    assert len(list((tmp_path / "plain").glob("*/*.safetensors"))) == 3, "they stay for the next one"
    # Those of other seeds are others, and lie elsewhere.
    run(tmp_path / "third", "fast", rival=False, plain_folder=tmp_path / "plain", seed=7)
    assert drawn == [[7, 8], [9, 10], [11]]
    assert len(list((tmp_path / "plain").iterdir())) == 2


def test_it_covers_the_run_it_was_made_on_and_no_other(done: tuple[AccelerationPlan, Path]) -> None:
    plan, _ = done
    pipe = accelerate_pipeline(tiny_text_pipeline(), plan, strict=True)
    generate(pipe, ["an owl"], [3], SETTINGS)
    assert "held-out" in str(summary(pipe)) and not summary(pipe).gaps
    with pytest.raises(PlanMismatchError, match="denoiser evaluations: 7 instead of 6"):
        generate(pipe, ["an owl"], [3], GenerationSettings(num_inference_steps=7))
    with pytest.raises(PlanMismatchError, match="guidance"):
        generate(pipe, ["an owl"], [3], dataclasses.replace(SETTINGS, guidance_scale=2.0))


@pytest.mark.parametrize("after", [1, 4, 7])
def test_killed_it_goes_on_to_equal_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Three batches plain, three accelerated, three of the rival: killed in each."""
    made, real = [], module.generate

    def counted(*args: Any, **kwargs: Any) -> torch.Tensor:
        made.append(1)
        return real(*args, **kwargs)

    def dying(*args: Any, **kwargs: Any) -> torch.Tensor:
        if len(made) == after:
            raise KeyboardInterrupt
        return counted(*args, **kwargs)

    pipe, folder = tiny_text_pipeline(), tmp_path / "killed"
    monkeypatch.setattr("dit_accel.evaluation.compare.compare.rival_steps", lambda *times: 3)
    monkeypatch.setattr(module, "generate", dying)
    with pytest.raises(KeyboardInterrupt):
        run(folder, pipe=pipe)
    assert not (folder / PLAN_FILE).exists() and not is_accelerated(pipe)
    timing = json.loads((folder / PROGRESS / "timing" / "report.json").read_text())
    made.clear()
    monkeypatch.setattr(module, "generate", counted)
    with pytest.raises(ConfigError, match="unfinished certification of something else, which differs in: plan"):
        run(folder, "turbo", pipe=pipe)
    part = next((folder / PROGRESS / "plain").glob("*.safetensors"))
    if after == 1:
        part.write_bytes(part.read_bytes()[:100])  # damaged: made again
    resumed = run(folder, pipe=pipe)
    assert len(made) == 9 - after + (after == 1)
    assert resumed.certificate.rival.num_inference_steps == 3
    report = Report.load(folder)
    assert list(report.variant("balanced").times.samples_s) == timing["variants"][1]["times"]["samples_s"]

    monkeypatch.setattr(module, "_timed", lambda *args, **kwargs: Report.model_validate(timing))
    whole = run(tmp_path / "whole", pipe=tiny_text_pipeline())
    assert whole == resumed
    assert Report.load(tmp_path / "whole") == report


def test_a_finished_folder_is_not_overwritten(done: tuple[AccelerationPlan, Path]) -> None:
    with pytest.raises(ConfigError, match="holds a plan or a report already"):
        run(done[1], "fast")


def test_too_few_images(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="4 images are too few: a certificate takes 5"):
        run(tmp_path / "few", num_prompts=4)
    assert not (tmp_path / "few").exists()
    plan = run(tmp_path / "few", num_prompts=4, allow_small=True)
    assert plan.certificate is None and not plan.is_certified
    assert [path.name for path in (tmp_path / "few").iterdir()] == ["report.json"]
    assert "4 images: not a certificate, which takes 5" in Report.load(tmp_path / "few").notes


def test_search_prompts_are_refused(tmp_path: Path) -> None:
    tuned = load_prompts("search").prompts[7]
    with pytest.raises(ConfigError, match="1 of 6 prompts are of the list 'search'"):
        run(tmp_path, prompts=[*PROMPTS[:5], f" {tuned.upper()} "], num_prompts=None)
    with pytest.raises(ConfigError, match="no prompts"):
        run(tmp_path, prompts=[])


def test_own_prompts_are_called_that(tmp_path: Path) -> None:
    plan = run(tmp_path, prompts=["an owl on a fish", *PROMPTS[:4]], rival=False)
    assert "on 5 prompts of the certifier's own (tiny" in plan.certificate.words()[0]
    assert "rival" in plan.certificate.words()[-1]


def test_a_pass_that_reuses_nothing_is_certified_by_what_it_does(tmp_path: Path) -> None:
    with registered(scale_pass()):
        plan = run(tmp_path, AccelerationPlan(passes=(ScaleConfig(factor=1.02), BALANCED), name="both"), rival=False)
        read = AccelerationPlan.from_pretrained(tmp_path)
        assert read == plan and read.is_certified
        accelerate_pipeline(tiny_text_pipeline(), read, strict=True)
    effects = {effect.name: effect for effect in plan.certificate.effects}
    assert effects["scale"].what == "outputs scaled" and effects["scale"].actual_frac == 1.0
    assert effects["static_cache"].actual_frac == effects["static_cache"].planned_frac > 0.3
    assert plan.certificate.planned_frac == 1.0, "the largest"
    own = Report.load(tmp_path).variant("both")
    assert own.effects.passes == plan.certificate.effects


NOTHING = StaticCacheConfig(schedule=Schedule(6, {}), invariants=False)


@pytest.mark.parametrize("passes", [(), (NOTHING,)], ids=["no passes", "computes everything"])
def test_a_plan_that_reuses_nothing_is_refused(tmp_path: Path, passes: tuple) -> None:
    with pytest.raises(ConfigError, match="none of the passes"):
        run(tmp_path, AccelerationPlan(passes=passes))


def test_a_plan_that_warns_is_refused(tmp_path: Path) -> None:
    other_steps = StaticCacheConfig(schedule=Schedule(8, {"blocks.0.ff": "10" * 4}))
    pipe = tiny_text_pipeline()
    with pytest.raises(PlanMismatchError, match="cannot be certified for this run: the schedule was made for 8"):
        run(tmp_path, AccelerationPlan(passes=(other_steps,)), pipe)
    assert not is_accelerated(pipe)


def test_an_accelerated_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="accelerated already"):
        run(tmp_path, pipe=accelerate_pipeline(tiny_text_pipeline(), "fast"))


def test_a_certified_plan_can_be_certified_for_other_steps(
    done: tuple[AccelerationPlan, Path], tmp_path: Path
) -> None:
    again = run(tmp_path, done[0], settings=GenerationSettings(num_inference_steps=8), rival=False)
    assert again.is_certified and again.certificate.conditions.num_steps == 8
    assert again.content_sha256() == done[0].content_sha256()


def test_progress_ends_where_all_is_done(tmp_path: Path) -> None:
    seen: list[tuple[float, float]] = []
    run(tmp_path, rival=False, on_progress=lambda done_s, total_s: seen.append((done_s, total_s)))
    assert len(seen) == 6 and [each for each, _ in seen] == sorted(each for each, _ in seen)
    assert seen[-1][0] == pytest.approx(seen[-1][1])


def test_videos(tmp_path: Path) -> None:
    clip = GenerationSettings(num_inference_steps=6, height=32, width=32, num_frames=5)
    arguments = {"settings": clip, "prompts": ["an owl", "a fish"], "num_prompts": None, "batch_size": None}
    plan = run(tmp_path, pipe=tiny_video_pipeline(), rival=False, **arguments)
    certificate = plan.certificate
    assert plan.is_certified and certificate.num_frames == 5 and certificate.speed.batch_size == 1
    assert "temporal_error" in certificate.fidelity
    assert "2 prompts of the certifier's own for videos" in certificate.words()[0]
    with pytest.raises(ConfigError, match="1 videos are too few"):
        run(tmp_path / "one", pipe=tiny_video_pipeline(), **{**arguments, "prompts": ["an owl"]})
