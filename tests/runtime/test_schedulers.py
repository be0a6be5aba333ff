"""The clock under every scheduler: first and second order, repeated timesteps, late starts, copies, foreign ones."""

import copy
from typing import Any

import diffusers
import pytest
import torch
from reference import config, every_second, replayed, tensor_of
from tiny import tiny_call, tiny_inputs, tiny_model, tiny_pipeline

from dit_accel import accelerate_pipeline, is_accelerated, summary
from dit_accel.errors import AccelerationWarning, ConfigError, PlanMismatchError
from dit_accel.families.pipeline import find_denoisers
from dit_accel.schedules import GeneratorSpec

STEPS = 6
# scheduler, denoiser evaluations of a run of 6 steps
DIFFUSION = {
    "ddim": (diffusers.DDIMScheduler, {}, 6),
    "ddpm": (diffusers.DDPMScheduler, {}, 6),
    "dpm++2m": (diffusers.DPMSolverMultistepScheduler, {}, 6),
    "dpm++2m-karras": (diffusers.DPMSolverMultistepScheduler, {"use_karras_sigmas": True}, 6),
    "dpm-single": (diffusers.DPMSolverSinglestepScheduler, {}, 6),
    "euler": (diffusers.EulerDiscreteScheduler, {}, 6),
    "euler-a": (diffusers.EulerAncestralDiscreteScheduler, {}, 6),
    "lms": (diffusers.LMSDiscreteScheduler, {}, 6),
    "deis": (diffusers.DEISMultistepScheduler, {}, 6),
    "unipc": (diffusers.UniPCMultistepScheduler, {}, 6),
    "pndm": (diffusers.PNDMScheduler, {"skip_prk_steps": True}, 7),
    "heun": (diffusers.HeunDiscreteScheduler, {}, 11),
    "kdpm2": (diffusers.KDPM2DiscreteScheduler, {}, 11),
    "kdpm2-a": (diffusers.KDPM2AncestralDiscreteScheduler, {}, 11),
    "lcm": (diffusers.LCMScheduler, {}, 6),
}
_FLOW_UNIPC = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
FLOW = {
    "flow-euler": (diffusers.FlowMatchEulerDiscreteScheduler, {}, 6),
    "flow-heun": (diffusers.FlowMatchHeunDiscreteScheduler, {}, 11),
    "flow-unipc": (
        diffusers.UniPCMultistepScheduler,
        {"prediction_type": "flow_prediction", "use_flow_sigmas": True},
        6,
    ),
}
CASES = [("sd", name) for name in DIFFUSION]
CASES += [("pixart", name) for name in ("ddim", "euler", "pndm", "heun", "unipc", "dpm-single")]
CASES += [("sd3", "flow-heun"), ("flux", "flow-euler"), ("wan", "flow-unipc")]


def _with(name: str, scheduler: str) -> tuple[Any, int]:
    make, settings, evaluations = {**DIFFUSION, **FLOW}[scheduler]
    pipe = tiny_pipeline(name)
    pipe.scheduler = make(**settings)
    return pipe, evaluations


def _run(pipe: Any, name: str, **more: Any) -> torch.Tensor:
    call = tiny_call(name, **{"num_inference_steps": STEPS, **more})
    call["generator"] = torch.Generator().manual_seed(3)
    return tensor_of(pipe(**call))


def _spy(pipe: Any) -> list[tuple[int, int]]:
    """What our clock says at each denoiser call."""
    heard: list[tuple[int, int]] = []
    denoiser = find_denoisers(pipe)[0][1]
    clock = pipe._dit_accel.runtimes[0].clock
    denoiser.register_forward_hook(lambda *_: heard.append((clock.step, clock.num_steps)))
    return heard


@pytest.mark.parametrize(("name", "scheduler"), CASES, ids=lambda value: value)
def test_every_scheduler(name: str, scheduler: str) -> None:
    if scheduler == "lms":
        pytest.importorskip("scipy")
    plain_pipe, evaluations = _with(name, scheduler)
    denoiser = find_denoisers(plain_pipe)[0][1]
    schedule = every_second(denoiser, evaluations)
    per_step = 2 if name == "wan" else 1
    with replayed(denoiser, schedule, lambda call: (call // per_step, call % per_step)) as seen:
        expected = _run(plain_pipe, name)
    assert len(seen) == evaluations * per_step
    pipe, _ = _with(name, scheduler)
    accelerate_pipeline(pipe, config(schedule), strict=True)
    heard = _spy(pipe)
    for _ in range(2):
        assert torch.equal(_run(pipe, name), expected)
        assert heard == [(step, evaluations) for step, _ in seen]
        heard.clear()


IMG2IMG = [
    *(("sd", name) for name in ("ddim", "euler", "dpm++2m", "pndm", "heun", "unipc", "lcm")),
    ("flux", "flow-euler"),
]


@pytest.mark.parametrize("strength", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("task", ["img2img", "inpaint"])
@pytest.mark.parametrize(("name", "scheduler"), IMG2IMG, ids=lambda value: value)
def test_runs_that_start_late(name: str, scheduler: str, task: str, strength: float) -> None:
    classes = {
        ("sd", "img2img"): diffusers.StableDiffusionImg2ImgPipeline,
        ("sd", "inpaint"): diffusers.StableDiffusionInpaintPipeline,
        ("flux", "img2img"): diffusers.FluxImg2ImgPipeline,
        ("flux", "inpaint"): diffusers.FluxInpaintPipeline,
    }
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    more = {"image": image, "strength": strength}
    if task == "inpaint":
        more["mask_image"] = (torch.arange(64) > 20).float().expand(1, 1, 64, 64).contiguous()

    def make() -> Any:
        base, _ = _with(name, scheduler)
        pipe = classes[name, task].from_pipe(base)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    plain_pipe = make()
    total = len(_timesteps(plain_pipe, STEPS))
    denoiser = find_denoisers(plain_pipe)[0][1]
    count: list[int] = []
    with_hook = denoiser.register_forward_hook(lambda *_: count.append(1))
    plain = _run(plain_pipe, name, **more)
    with_hook.remove()
    start = total - len(count)
    assert (start > 0) == (strength < 1.0)
    schedule = every_second(denoiser, total)
    with replayed(denoiser, schedule, lambda call: (start + call, 0)) as seen:
        expected = _run(plain_pipe, name, **more)
    pipe = make()
    accelerate_pipeline(pipe, config(schedule))
    heard = _spy(pipe)
    for _ in range(2):
        assert torch.equal(_run(pipe, name, **more), expected)
        assert heard == [(step, total) for step, _ in seen]
        heard.clear()
    if len(count) > 2:
        assert not torch.equal(expected, plain)


def _timesteps(pipe: Any, num_steps: int) -> torch.Tensor:
    scheduler = copy.deepcopy(pipe.scheduler)
    more = {"mu": 1.0} if scheduler.config.get("use_dynamic_shifting") else {}
    scheduler.set_timesteps(num_steps, **more)
    return scheduler.timesteps


@pytest.mark.parametrize("when", ["before-any-run", "after-a-run"])
def test_a_scheduler_replaced_after_acceleration(when: str) -> None:
    fast_heun, evaluations = _with("sd", "heun")
    accelerate_pipeline(fast_heun, config(GeneratorSpec("every_n", n=2)))
    expected = _run(fast_heun, "sd")
    pipe, _ = _with("sd", "ddim")
    accelerate_pipeline(pipe, config(GeneratorSpec("every_n", n=2)))
    heard = _spy(pipe)
    if when == "after-a-run":
        _run(pipe, "sd")
        heard.clear()
    old = pipe.scheduler
    pipe.scheduler = diffusers.HeunDiscreteScheduler()
    for _ in range(2):
        assert torch.equal(_run(pipe, "sd"), expected)
        assert heard == [(step, evaluations) for step in range(evaluations)]
        heard.clear()
    pipe.scheduler = old
    _run(pipe, "sd")
    assert heard == [(step, STEPS) for step in range(STEPS)]


class CopyingPipeline(diffusers.PixArtAlphaPipeline):
    """Uses a deep copy of its scheduler in every call, as pipelines do that step two modalities."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        own = self.scheduler
        # the loop sees the copy only
        object.__setattr__(self, "scheduler", copy.deepcopy(own))
        try:
            return super().__call__(*args, **kwargs)
        finally:
            object.__setattr__(self, "scheduler", own)


def test_a_scheduler_that_the_pipeline_deep_copies() -> None:
    expected = _run(accelerate_pipeline(tiny_pipeline("pixart"), "balanced"), "pixart")
    pipe = CopyingPipeline.from_pipe(tiny_pipeline("pixart"))
    pipe.set_progress_bar_config(disable=True)
    accelerate_pipeline(pipe, "balanced", strict=True)
    entries = len(pipe._dit_accel.ledger)
    for _ in range(4):
        assert torch.equal(_run(pipe, "pixart"), expected)
    import gc

    gc.collect()
    copy.deepcopy(pipe.scheduler)
    assert len(pipe._dit_accel.ledger) <= entries + 6, "copies are collected"


def _loop(model: Any, scheduler: Any, num_steps: int, *, second: Any = None, deepcopied: bool = False) -> torch.Tensor:
    """A user's own loop on a bare transformer, with one batch."""
    inputs = tiny_inputs("pixart", model, seed=4, batch=1)
    latents = inputs.pop("hidden_states")
    inputs.pop("timestep")
    if deepcopied:
        scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(num_steps)
    if second is not None:
        second.set_timesteps(num_steps)
    audio = latents.clone()
    for t in scheduler.timesteps:
        noise = model(latents, timestep=t.expand(1), **inputs)[0].chunk(2, dim=1)[0]
        latents = scheduler.step(noise, t, latents)[0]
        if second is not None:
            audio = second.step(noise, t, audio)[0]
    return latents


@pytest.mark.parametrize("layout", ["plain", "deep-copied", "two-in-parallel"])
def test_bare_denoiser_with_a_scheduler(layout: str) -> None:
    model = tiny_model("pixart")
    schedule = every_second(model, STEPS)
    with replayed(model, schedule):
        expected = _loop(model, diffusers.DDIMScheduler(), STEPS)
    scheduler = diffusers.DDIMScheduler()
    accelerate_pipeline(model, config(schedule), scheduler=scheduler, strict=True)
    assert is_accelerated(model)
    more: dict[str, Any] = {"deepcopied": layout == "deep-copied"}
    if layout == "two-in-parallel":
        more["second"] = copy.deepcopy(scheduler)
    for _ in range(2):
        assert torch.equal(_loop(model, scheduler, STEPS, **more), expected)
        assert summary(model).denoisers[0].last_run.actual_reuse > 0


@pytest.mark.parametrize("own_runs", [0, 1])
def test_driven_by_a_foreign_scheduler_it_computes_everything_and_says_so(own_runs: int) -> None:
    plain = _loop(tiny_model("pixart"), diffusers.DDIMScheduler(), 12)
    model, own = tiny_model("pixart"), diffusers.DDIMScheduler()
    accelerate_pipeline(model, config(GeneratorSpec("every_n", n=2)), scheduler=own)
    for _ in range(own_runs):
        _loop(model, own, STEPS)
    with pytest.warns(AccelerationWarning, match=r"called outside a run of this pipeline's scheduler \(DDIM"):
        assert torch.equal(_loop(model, diffusers.DDIMScheduler(), 12), plain)
    strict = tiny_model("pixart")
    accelerate_pipeline(strict, config(GeneratorSpec("every_n", n=2)), scheduler=own, strict=True)
    with pytest.raises(PlanMismatchError, match="pass that one"):
        _loop(strict, diffusers.DDIMScheduler(), 12)


def test_a_scheduler_belongs_to_a_bare_denoiser_only() -> None:
    with pytest.raises(ConfigError, match="this pipeline has its own"):
        accelerate_pipeline(tiny_pipeline("pixart"), "fast", scheduler=diffusers.DDIMScheduler())
    with pytest.raises(ConfigError, match=r"needs the scheduler that drives it.*scheduler=s"):
        accelerate_pipeline(tiny_model("pixart"), "fast")
