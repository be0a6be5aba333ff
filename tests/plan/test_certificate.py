"""A certificate is bound to its plan, its model and its run; whatever differs is said, and refused in strict mode."""

import copy
import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from sample_certificates import certified, sample_certificate
from tiny_text import tiny_text_pipeline

from dit_accel import (
    AccelerationPlan,
    GeneratorSpec,
    QuantizeConfig,
    Schedule,
    StaticCacheConfig,
    accelerate_pipeline,
    remove_acceleration,
    summary,
)
from dit_accel.errors import AccelerationWarning, ConfigError, PlanMismatchError
from dit_accel.families.targets import find_targets
from dit_accel.plan.certificate import MIN_IMAGES, Certificate
from dit_accel.plan.conditions import Conditions
from dit_accel.plan.fingerprint import fingerprint
from dit_accel.plan.plan import PLAN_FILE, plan_from_dict
from dit_accel.plan.weights import WeightSample, sample_weights

STEPS = 6
CALL = {"num_inference_steps": STEPS, "guidance_scale": 4.5, "use_resolution_binning": False, "clean_caption": False}


def draw(pipe: Any, **more: Any) -> torch.Tensor:
    return pipe("a red apple", generator=torch.Generator().manual_seed(0), output_type="pt", **{**CALL, **more}).images


@pytest.fixture
def pipe() -> diffusers.PixArtAlphaPipeline:
    return tiny_text_pipeline()


@pytest.fixture
def plan(pipe: Any) -> AccelerationPlan:
    """Certified for six steps of this pipeline."""
    target = find_targets(pipe)[0]
    bare = AccelerationPlan(
        name="mine",
        passes=(StaticCacheConfig(schedule=GeneratorSpec("every_n", n=2)),),
        fingerprints=(fingerprint(target),),
    )
    accelerate_pipeline(pipe, bare)
    draw(pipe)
    run = summary(pipe).denoisers[0].last_run
    return certified(bare, conditions=run.conditions, weights=sample_weights(target.denoiser))


def test_a_certified_run_says_so_in_words(pipe: Any, plan: AccelerationPlan) -> None:
    assert plan.is_certified and plan.certificate_fault is None
    accelerate_pipeline(pipe, plan, strict=True)
    draw(pipe)
    text = str(summary(pipe))
    assert "plan 'mine' (certified)" in text
    assert "on 200 held-out prompts (tiny, DPMSolverMultistepScheduler, 20 steps, 64x64, guidance 4.5" in text
    assert "PSNR 36.1 dB [35.6, 36.7], worst 5 % 27.9 dB" in text
    assert "denoiser 2.10x [2.05, 2.20] faster" in text
    assert "not measured: a perceptual distance (LPIPS); image quality" in text
    assert "does not" not in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_inference_steps": 8}, "denoiser evaluations: 8 instead of 6"),
        ({"guidance_scale": 7.0}, "the guidance scale: 7.0 instead of 4.5"),
        ({"height": 32, "width": 32}, r"the latent size: \(4, 4\) instead of \(8, 8\)"),
    ],
)
def test_another_run_is_not_covered(pipe: Any, plan: AccelerationPlan, change: dict[str, Any], words: str) -> None:
    accelerate_pipeline(pipe, plan)
    with pytest.warns(AccelerationWarning, match=f"certificate of plan 'mine' does not cover this run: {words}"):
        draw(pipe, **change)
    assert f"the certificate does not cover the last run: {words}".replace("\\", "") in str(summary(pipe))
    accelerate_pipeline(pipe, plan, strict=True)
    with pytest.raises(PlanMismatchError, match=words):
        draw(pipe, **change)
    draw(pipe)
    assert not summary(pipe).gaps


def test_another_scheduler_is_not_covered(pipe: Any, plan: AccelerationPlan) -> None:
    own = pipe.scheduler
    other = type(own).from_config(own.config, solver_order=1 if own.config.solver_order != 1 else 2)
    for scheduler, words in [
        (other, "the scheduler's solver_order"),
        (diffusers.DDIMScheduler.from_config(own.config), "the scheduler: DDIMScheduler instead of DPMSolver"),
    ]:
        pipe.scheduler = scheduler
        accelerate_pipeline(pipe, plan, strict=True)
        with pytest.raises(PlanMismatchError, match=words):
            draw(pipe)


def test_a_lora_is_not_covered(pipe: Any, plan: AccelerationPlan) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=2, lora_alpha=4, init_lora_weights=False, target_modules=["to_k"])
    inject_adapter_in_model(config, pipe.transformer, adapter_name="style")
    accelerate_pipeline(pipe, plan)
    with pytest.warns(AccelerationWarning, match="the LoRA adapters: style@2 instead of none"):
        draw(pipe)


def test_fused_or_finetuned_weights_are_not_covered(pipe: Any, plan: AccelerationPlan) -> None:
    with torch.no_grad():
        for block in pipe.transformer.transformer_blocks:
            block.attn1.to_k.weight.mul_(1.02)
    with pytest.warns(AccelerationWarning, match="measured on other weights"):
        accelerate_pipeline(pipe, plan)
    assert not summary(pipe).certified
    assert "(not certified)" in str(summary(pipe)) and "other weights" in str(summary(pipe))
    with pytest.raises(PlanMismatchError, match="measured on other weights"):
        accelerate_pipeline(pipe, plan, strict=True)


def test_another_type_is_the_same_model_at_another_speed(pipe: Any, plan: AccelerationPlan) -> None:
    sample = sample_weights(pipe.transformer)
    half = sample_weights(copy.deepcopy(pipe.transformer).to(torch.bfloat16))
    assert sample.is_of(half) and half.is_of(sample) and half.dtype == "bfloat16"
    assert not sample.is_of(WeightSample(dtype="bfloat16", values=tuple(v * 1.02 + 1e-5 for v in sample.values)))
    pipe.to(torch.bfloat16)
    accelerate_pipeline(pipe, plan, strict=True)
    assert summary(pipe).certified
    assert "measured on cpu in float32, this is cpu in bfloat16" in str(summary(pipe))


def test_uncertified_plans_are_not_looked_into(pipe: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", AccelerationWarning)
        accelerate_pipeline(pipe, "fast")
        draw(pipe, num_inference_steps=9)
    assert "not certified" in str(summary(pipe)) and not summary(pipe).certificate


def _edited(folder: Path, plan: AccelerationPlan, *place: Any, value: Any) -> AccelerationPlan:
    path = plan.save_pretrained(folder)
    data = inner = json.loads(path.read_text())
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_text(json.dumps(data))
    return AccelerationPlan.from_pretrained(folder)


def test_saved_and_loaded_it_still_certifies(tmp_path: Path, plan: AccelerationPlan) -> None:
    plan.save_pretrained(tmp_path)
    again = AccelerationPlan.from_pretrained(tmp_path)
    assert again == plan and again.is_certified
    renamed = dataclasses.replace(again, name="other", notes=("mine",))
    assert renamed.is_certified, "a name does nothing"


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("passes", 0, "schedule", "params", "n"), 5, "the plan was changed after it was certified"),
        (("passes", 0, "invariants"), False, "the plan was changed"),
        (("fingerprint", "config"), "0" * 16, "the plan was changed"),
        (("fingerprint",), None, "the plan was changed"),
        (("conditions", "num_steps"), 30, "the plan was changed"),
        (("certificate", "fidelity", "psnr_db", "mean"), 46.1, "the certificate was changed after it was issued"),
        (("certificate", "conditions", "num_steps"), None, "the certificate was changed"),
        (("certificate", "seal"), "", "the certificate was changed"),
    ],
)
def test_an_edited_file_counts_as_uncertified(
    tmp_path: Path, pipe: Any, plan: AccelerationPlan, place: tuple, value: Any, words: str
) -> None:
    edited = _edited(tmp_path, plan, *place, value=value)
    assert not edited.is_certified
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        accelerate_pipeline(pipe, edited)
    assert any(words in str(warning.message) for warning in seen)
    text = str(summary(pipe))
    assert "(not certified)" in text and words in text and "held-out" not in text
    with pytest.raises(PlanMismatchError):
        accelerate_pipeline(pipe, edited, strict=True)


def test_too_few_images_certify_nothing(plan: AccelerationPlan) -> None:
    prompts = sample_certificate().prompts.model_copy(update={"n": MIN_IMAGES - 1})
    small = certified(dataclasses.replace(plan, certificate=None), prompts=prompts)
    assert not small.is_certified
    assert "199 images; a certificate takes 200" in small.certificate_fault


def test_tensors_are_bound_too(plan: AccelerationPlan) -> None:
    from dit_accel import Schedule

    def with_shift(value: float) -> AccelerationPlan:
        tables = {"blocks.0.ff.scale": torch.ones(4, 16), "blocks.0.ff.shift": torch.full((4, 16), value)}
        passes = (StaticCacheConfig(schedule=Schedule(4, {"blocks.0.ff": "1010"}), corrections=tables),)
        return dataclasses.replace(plan, passes=passes, certificate=None)

    bound = certified(with_shift(0.0))
    assert bound.is_certified
    assert not dataclasses.replace(with_shift(0.1), certificate=bound.certificate).is_certified


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("certificate",), {"n": 200}, "'format' is not 'dit-accel/certificate'"),
        (("certificate", "version"), 99, "certificate version 99, this dit-accel reads 2: update"),
        (("certificate", "version"), "1", "must be a whole number"),
        (("certificate", "modle"), 1, "unknown key 'modle'. Did you mean 'model'?"),
        (("certificate", "height"), "tall", "'height'"),
    ],
)
def test_a_broken_certificate_is_an_error(
    tmp_path: Path, plan: AccelerationPlan, place: tuple, value: Any, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        _edited(tmp_path, plan, *place, value=value)
    assert words in str(caught.value) and PLAN_FILE in str(caught.value)


def test_an_older_one_keeps_its_seal_when_fields_are_added(plan: AccelerationPlan) -> None:
    data = plan.certificate.to_dict()
    del data["num_frames"]  # as if a later version had added it
    del data["conditions"]["true_cfg_scale"], data["conditions"]["guidance_scale_2"]  # which one has
    assert Certificate.checked(data, "here").fault(plan.content_sha256(), plan.fingerprints) is None


def test_guidance_scales_are_sealed_and_said(plan: AccelerationPlan) -> None:
    conditions = dataclasses.replace(plan.certificate.conditions, true_cfg_scale=4.0, guidance_scale_2=3.0)
    other = certified(dataclasses.replace(plan, certificate=None), conditions=conditions)
    assert "guidance 4.5, true guidance 4" in other.certificate.words()[0]
    read = plan_from_dict(json.loads(json.dumps(other.to_dict())), {})
    assert read.is_certified and read.certificate.conditions == conditions
    assert read.uncovered(dataclasses.replace(conditions, true_cfg_scale=1.0, guidance_scale_2=5.0)) == (
        "the true guidance scale: 1.0 instead of 4.0",
        "the second denoiser's guidance scale: 5.0 instead of 3.0",
    )
    mine = dataclasses.replace(plan, conditions=conditions)
    assert plan_from_dict(json.loads(json.dumps(mine.to_dict())), {}).conditions == conditions


def test_what_is_exact_by_construction_is_so_in_any_run(pipe: Any, plan: AccelerationPlan) -> None:
    exact = StaticCacheConfig(schedule=GeneratorSpec("custom", reuse={}))
    kept = dataclasses.replace(plan, passes=(exact,), certificate=None)
    kept = certified(kept, conditions=plan.certificate.conditions, weights=plan.certificate.weights)
    remove_acceleration(pipe)
    plain = draw(pipe, num_inference_steps=STEPS + 2)
    accelerate_pipeline(pipe, plan, strict=True)
    with pytest.raises(PlanMismatchError, match="denoiser evaluations"):
        draw(pipe, num_inference_steps=STEPS + 2)
    accelerate_pipeline(pipe, kept, strict=True)
    assert torch.equal(draw(pipe, num_inference_steps=STEPS + 2), plain)
    assert summary(pipe).denoisers[0].last_run.uncovered == ()
    assert exact.is_lossless and not plan.passes[0].is_lossless
    assert StaticCacheConfig(schedule=Schedule(STEPS, {})).is_lossless
    assert QuantizeConfig(bits="w8a8").is_lossless is False
    assert not StaticCacheConfig(schedule=Schedule(2, {"blocks.0.attn": "10"})).is_lossless


def test_doubts_compare_only_what_both_sides_know() -> None:
    wanted = Conditions(scheduler="X", scheduler_config={"order": 2, "gone": 1}, adapters=())
    assert wanted.doubts(Conditions(scheduler="X", scheduler_config={"order": 2, "new": 1})) == []
    assert wanted.doubts(Conditions(scheduler="X", scheduler_config={"order": 3}, adapters=("a@1",))) == [
        "the LoRA adapters: a@1 instead of none",
        "the scheduler's order: 3 instead of 2",
    ]
