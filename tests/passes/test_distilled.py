"""A student in a plan: the same as diffusers' own adapter, undone exactly, said to be what it is."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from snapshot import assert_same, snapshot
from tiny_flux import PROMPTS, tiny_flux

from dit_accel import (
    AccelerationPlan,
    DistilledConfig,
    GeneratorSpec,
    StaticCacheConfig,
    accelerate_pipeline,
    remove_acceleration,
    summary,
)
from dit_accel.errors import AccelerationWarning, ConfigError, PlanMismatchError, UnsupportedModelError

RENOISE = {"_class_name": "FlowMatchEulerDiscreteScheduler", "stochastic_sampling": True}


def factors(pipe: Any, rank: int = 2, scale: float = 0.2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    found = {}
    for name, module in pipe.transformer.named_modules():
        if isinstance(module, torch.nn.Linear):
            out, into = module.weight.shape
            found[f"{name}.lora_A.weight"] = scale * torch.randn(rank, into, generator=generator)
            found[f"{name}.lora_B.weight"] = scale * torch.randn(out, rank, generator=generator)
    return found


def draw(pipe: Any, steps: int = 2, seed: int = 0) -> torch.Tensor:
    made = pipe(
        PROMPTS[0], num_inference_steps=steps, guidance_scale=3.5, height=64, width=64, max_sequence_length=16,
        generator=torch.Generator().manual_seed(seed), output_type="latent",
    )  # fmt: skip
    return made.images


def student(pipe: Any, **more: Any) -> DistilledConfig:
    fields = {"method": "test", "steps": (1, 2), "guidance_scale": 3.5, "weights": factors(pipe)}
    return DistilledConfig(**{**fields, **more})


def test_it_is_what_load_lora_weights_makes_of_it(tmp_path: Path) -> None:
    config = student(tiny_flux())
    save_file(
        {f"transformer.{k}": v for k, v in config.weights.items()}, tmp_path / "pytorch_lora_weights.safetensors"
    )
    theirs = tiny_flux()
    plain = draw(theirs)
    theirs.load_lora_weights(tmp_path)
    ours = tiny_flux()
    accelerate_pipeline(ours, [config])
    torch.testing.assert_close(draw(ours), draw(theirs), atol=1e-4, rtol=1e-4)
    assert (draw(ours) - plain).abs().max() > 0.01


def test_it_is_undone_exactly_with_its_scheduler() -> None:
    pipe = tiny_flux()
    plain, scheduler = draw(pipe), pipe.scheduler
    before = snapshot(pipe)
    accelerate_pipeline(pipe, [student(pipe, scheduler=RENOISE)])
    assert pipe.scheduler is not scheduler and pipe.scheduler.config.stochastic_sampling
    assert not torch.equal(draw(pipe), plain)
    remove_acceleration(pipe)
    assert pipe.scheduler is scheduler
    assert_same(before, snapshot(pipe))
    assert torch.equal(draw(pipe), plain)


def test_a_plan_file_holds_it_whole(tmp_path: Path) -> None:
    pipe = tiny_flux()
    plan = AccelerationPlan(passes=(student(pipe, scheduler=RENOISE),))
    plan.save_pretrained(tmp_path)
    again = AccelerationPlan.from_pretrained(tmp_path)
    assert again.passes == plan.passes
    accelerate_pipeline(pipe, plan)
    drawn = draw(pipe)
    other = tiny_flux()
    accelerate_pipeline(other, again)
    assert torch.equal(draw(other), drawn)


def test_fresh_noise_comes_from_the_pipelines_generator() -> None:
    pipe = tiny_flux()
    accelerate_pipeline(pipe, [student(pipe, scheduler=RENOISE)])
    torch.manual_seed(1)
    first = draw(pipe)
    torch.manual_seed(2)
    assert torch.equal(draw(pipe), first)
    assert not torch.equal(draw(pipe, seed=1), first)


def test_scale_nought_is_the_teacher_and_one_step_needs_no_noise() -> None:
    pipe = tiny_flux()
    plain = draw(pipe, steps=1)
    accelerate_pipeline(pipe, [student(pipe, scale=0.0, scheduler=RENOISE)])
    torch.testing.assert_close(draw(pipe, steps=1), plain, atol=1e-5, rtol=1e-5)


def test_a_run_that_it_was_not_distilled_for_is_warned_of() -> None:
    pipe = tiny_flux()
    accelerate_pipeline(pipe, [student(pipe)])
    with pytest.warns(AccelerationWarning, match="distilled for 1, 2 steps, and this run has 3"):
        draw(pipe, steps=3)
    remove_acceleration(pipe)
    accelerate_pipeline(pipe, [student(pipe, guidance_scale=2.0)], strict=True)
    with pytest.raises(PlanMismatchError, match=r"guidance 2 inside, and this run asks for 3\.5"):
        draw(pipe)


def test_it_says_what_it_did() -> None:
    pipe = tiny_flux()
    accelerate_pipeline(pipe, [student(pipe)])
    draw(pipe)
    assert "weights replaced by the student's" in str(summary(pipe))


def test_other_passes_work_on_the_students_outputs() -> None:
    pipe = tiny_flux()
    draw(pipe)
    plain = snapshot(pipe)
    cache = StaticCacheConfig(schedule=GeneratorSpec("every_n", n=2))
    accelerate_pipeline(pipe, [student(pipe), cache])
    cached = draw(pipe)
    accelerate_pipeline(pipe, [student(pipe)])
    assert not torch.equal(draw(pipe), cached)
    remove_acceleration(pipe)
    assert_same(plain, snapshot(pipe))


def test_a_quantised_student_is_quantised_after_it_was_folded() -> None:
    from dit_accel import QuantizeConfig

    pipe = tiny_flux()
    draw(pipe)
    plain = snapshot(pipe)
    accelerate_pipeline(pipe, [student(pipe)])
    folded = draw(pipe)
    accelerate_pipeline(pipe, [student(pipe), QuantizeConfig()])
    assert (draw(pipe) - folded).abs().max() < 0.5 * folded.abs().max()
    remove_acceleration(pipe)
    assert_same(plain, snapshot(pipe))
    with pytest.raises(ConfigError, match="name it before that one"):
        accelerate_pipeline(pipe, [QuantizeConfig(), student(pipe)])
    assert_same(plain, snapshot(pipe))


def test_a_student_of_another_model_is_refused_and_nothing_is_changed() -> None:
    from tiny import tiny_pipeline

    config = student(tiny_flux())
    other = tiny_pipeline("flux")
    before = snapshot(other)
    with pytest.raises(UnsupportedModelError, match=r"the student's .*; and \d+ more"):
        accelerate_pipeline(other, [config])
    assert_same(before, snapshot(other))


def test_what_the_trainer_wrote_is_read(tmp_path: Path) -> None:
    config = student(tiny_flux(), scheduler=RENOISE)
    with pytest.raises(ConfigError, match="holds no distilled student"):
        DistilledConfig.from_student(tmp_path)
    save_file(
        {f"transformer.{k}": v for k, v in config.weights.items()}, tmp_path / "pytorch_lora_weights.safetensors"
    )
    facts = {"format": 1, "method": "test", "steps": [1, 2], "guidance_scale": 3.5, "scheduler": RENOISE, "more": 1}
    (tmp_path / "student.json").write_text(json.dumps(facts))
    assert DistilledConfig.from_student(tmp_path) == config


@pytest.mark.parametrize("euler", [False, True], ids=["unipc", "euler"])
@pytest.mark.parametrize("renoise", [False, True])
def test_a_video_pipeline_visits_the_times_of_the_training(renoise: bool, euler: bool) -> None:
    """Wan's pipeline names no sigmas, and its scheduler's shift need not be the embedded model's."""
    import diffusers
    from tiny_wan import tiny_wan

    from dit_accel.training.distill.backbone import Backbone
    from dit_accel.training.distill.export import scheduler_of

    pipe = tiny_wan()
    pipe.scheduler = (
        diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0)
        if euler
        else diffusers.UniPCMultistepScheduler.from_config(pipe.scheduler.config, flow_shift=5.0)
    )
    backbone = Backbone.of(pipe, frames=2)
    assert backbone.schedule.shift == 5
    config = DistilledConfig(method="test", scheduler=scheduler_of(backbone, renoise=renoise))
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler() if euler else pipe.scheduler  # the user's other one
    accelerate_pipeline(pipe, [config])
    asked: list[float] = []
    pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: asked.append(float(kwargs["timestep"][0])), with_kwargs=True
    )
    pipe("a frog grows", num_inference_steps=4, num_frames=2, guidance_scale=1.0, output_type="latent")
    torch.testing.assert_close(torch.tensor(asked), 1000 * backbone.sigmas(4)[:-1])


def test_an_image_pipelines_shift_is_its_schedulers_too() -> None:
    """By the number of tokens as FLUX.1-dev's, or fixed as FLUX.1-schnell's."""
    from dit_accel.training.distill.backbone import Backbone
    from dit_accel.training.objectives import flux_shift

    pipe = tiny_flux()
    assert Backbone.of(pipe).schedule.shift == pytest.approx(flux_shift(64))
    pipe.scheduler.register_to_config(use_dynamic_shifting=False, shift=1.0)
    assert Backbone.of(pipe).schedule.shift == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"steps": (0,)}, "positive whole numbers"),
        ({"scale": 5}, r"scale must lie in \[0, 2\]"),
        ({"scheduler": {"_class_name": "os.system"}}, "scheduler must be one of"),
        ({"weights": {"a.lora_A.weight": torch.zeros(2, 3)}}, "has no fellow"),
        ({"weights": {"a.lora_A.weight": torch.zeros(2, 3), "a.lora_B.weight": torch.zeros(3, 3)}}, "do not fit"),
    ],
)
def test_bad_settings_are_named(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        DistilledConfig(**fields)
