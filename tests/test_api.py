"""The public verbs, their forms and their promises."""

import inspect
import logging
import subprocess
import sys
from typing import Any

import diffusers
import pytest
import torch
from tiny import tiny_call, tiny_model, tiny_pipeline

import dit_accel
from dit_accel import (
    AccelerationPlan,
    accelerate_pipeline,
    accelerated,
    is_accelerated,
    remove_acceleration,
    summary,
)
from dit_accel.session.presets import PRESETS


def _run(pipe: Any) -> torch.Tensor:
    return pipe(**tiny_call("pixart"))[0]


def test_every_form_of_a_plan_does_the_same(tmp_path: Any) -> None:
    config = PRESETS.get("balanced").make(())[0]
    plan = AccelerationPlan(passes=(config,))
    path = plan.save_pretrained(tmp_path)
    forms = [config, [config], (config,), plan, tmp_path, path, str(path), "balanced"]
    outputs = [_run(accelerate_pipeline(tiny_pipeline("pixart"), form)) for form in forms]
    assert all(torch.equal(output, outputs[0]) for output in outputs)


def test_the_default_is_balanced() -> None:
    assert summary(accelerate_pipeline(tiny_pipeline("pixart"))).plan == "balanced"
    with accelerated(tiny_pipeline("pixart")) as pipe:
        assert summary(pipe).plan == "balanced"
    assert not is_accelerated(pipe)


def test_an_empty_plan_touches_nothing_but_is_in_force() -> None:
    pipe = tiny_pipeline("pixart")
    before = dict(vars(pipe.transformer)), dict(vars(pipe.scheduler))
    accelerate_pipeline(pipe, AccelerationPlan())
    assert (dict(vars(pipe.transformer)), dict(vars(pipe.scheduler))) == before
    assert is_accelerated(pipe)
    assert summary(pipe).passes == () and "no passes" in str(summary(pipe))
    remove_acceleration(pipe)
    assert not is_accelerated(pipe)


def test_only_instances_are_touched() -> None:
    pipe = tiny_pipeline("pixart")
    classes = {type(module) for module in pipe.transformer.modules()} | {type(pipe), type(pipe.scheduler)}
    before = {cls: dict(vars(cls)) for cls in classes}
    accelerate_pipeline(pipe, "balanced")
    _run(pipe)
    assert before == {cls: dict(vars(cls)) for cls in classes}


def test_signatures_are_still_seen_through_the_wrappers() -> None:
    """Pipelines and schedulers inspect ``scheduler.step`` for ``eta`` and ``generator``."""
    pipe, plain = accelerate_pipeline(tiny_pipeline("sd"), "balanced"), tiny_pipeline("sd")
    for name in ("step", "set_timesteps", "scale_model_input"):
        assert inspect.signature(getattr(pipe.scheduler, name)) == inspect.signature(getattr(plain.scheduler, name))
    assert inspect.signature(pipe.unet.forward) == inspect.signature(plain.unet.forward)


@pytest.mark.parametrize("name", ["pixart", "flux", "sd", "lumina2"])
def test_a_bare_denoiser(name: str) -> None:
    model, scheduler = tiny_model(name), diffusers.DDIMScheduler()
    keys, attributes = list(model.state_dict()), set(vars(model))
    assert accelerate_pipeline(model, "balanced", scheduler=scheduler) is model
    assert is_accelerated(model)
    assert summary(model).denoisers[0].name == "denoiser"
    assert list(model.state_dict()) == keys
    with accelerated(model, "lossless", scheduler=scheduler):
        assert summary(model).plan == "lossless"
    assert summary(model).plan == "balanced"
    remove_acceleration(model)
    assert set(vars(model)) == attributes
    assert not {"step", "set_timesteps", "scale_model_input"} & set(vars(scheduler))


def test_the_pipeline_can_still_be_saved_moved_and_converted(tmp_path: Any) -> None:
    pipe = accelerate_pipeline(tiny_pipeline("pixart"), "balanced")
    fast = _run(pipe)
    plain = _run(tiny_pipeline("pixart"))
    pipe.transformer.save_pretrained(tmp_path)
    pipe.scheduler.save_pretrained(tmp_path)
    loaded = tiny_pipeline("pixart")
    loaded.transformer = diffusers.PixArtTransformer2DModel.from_pretrained(tmp_path)
    loaded.scheduler = diffusers.DPMSolverMultistepScheduler.from_pretrained(tmp_path)
    assert torch.equal(_run(loaded), plain)
    pipe.to("cpu").to(torch.float32)
    assert torch.equal(_run(pipe), fast)
    assert set(pipe.components) == set(loaded.components)


def test_another_pipeline_on_the_same_components_is_accelerated_with_them() -> None:
    base = accelerate_pipeline(tiny_pipeline("sd"), "balanced", strict=True)
    other = diffusers.StableDiffusionImg2ImgPipeline.from_pipe(base)
    other.set_progress_bar_config(disable=True)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    other(**{**tiny_call("sd", num_inference_steps=10), "image": image, "strength": 0.8})
    assert summary(base).denoisers[0].last_run.actual_reuse > 0


def test_it_logs_and_does_not_print(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of the command line, which another test of this process may have run.
    monkeypatch.setattr(logging.getLogger("dit_accel"), "handlers", [])
    with caplog.at_level(logging.INFO, logger="dit_accel"):
        pipe = accelerate_pipeline(tiny_pipeline("pixart"), "balanced")
        accelerate_pipeline(pipe, "fast")
        _run(pipe)
    assert "replaced plan 'balanced' by 'fast'" in caplog.text
    assert capsys.readouterr() == ("", "")


def test_importing_is_light() -> None:
    heavy = ["torch", "diffusers", "triton", "gradio", "torchao", "deap", "pandas", "torchmetrics"]
    code = f"import sys, dit_accel; print([m for m in {heavy} if m in sys.modules], len(dit_accel.__all__))"
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert got.stdout.split()[0] == "[]"


@pytest.mark.parametrize("name", sorted(set(dit_accel.__all__) - {"__version__"}))
def test_public_names_exist_and_are_documented(name: str) -> None:
    assert (getattr(dit_accel, name).__doc__ or "").strip()


def test_unknown_public_name() -> None:
    with pytest.raises(AttributeError, match="module 'dit_accel' has no attribute 'acelerate'"):
        dit_accel.acelerate  # noqa: B018
