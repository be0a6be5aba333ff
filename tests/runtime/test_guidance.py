"""Guidance: one batch, two calls with and without named branches, off, switched off or on part-way; Wan 2.2."""

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from reference import config, every_second, replayed, tensor_of
from tiny import tiny_call, tiny_inputs, tiny_model, tiny_pipeline

from dit_accel import accelerate_pipeline, summary
from dit_accel.errors import AccelerationWarning
from dit_accel.families.pipeline import find_denoisers
from dit_accel.schedules import GeneratorSpec, Schedule

STEPS = 8


def _run(pipe: Any, name: str, **more: Any) -> torch.Tensor:
    return tensor_of(pipe(**tiny_call(name, **{"num_inference_steps": STEPS, **more})))


def _true_cfg(scale: float) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(9)
    return {
        "true_cfg_scale": scale,
        "negative_prompt_embeds": torch.randn(1, 6, 12, generator=generator),
        "negative_pooled_prompt_embeds": torch.randn(1, 10, generator=generator),
    }


@pytest.mark.parametrize(
    ("name", "more", "per_step"),
    [
        pytest.param("pixart", {"guidance_scale": 4.5}, 1, id="pixart-one-batch"),
        pytest.param("pixart", {"guidance_scale": 1.0}, 1, id="pixart-off"),
        pytest.param("sd", {"guidance_scale": 7.0}, 1, id="sd-one-batch"),
        pytest.param("sd", {"guidance_scale": 0.0}, 1, id="sd-off"),
        pytest.param("sd3", {"guidance_scale": 1.0}, 1, id="sd3-off"),
        pytest.param("wan", {"guidance_scale": 5.0}, 2, id="wan-two-named-calls"),
        pytest.param("wan", {"guidance_scale": 1.0}, 1, id="wan-off"),
        pytest.param("flux", _true_cfg(2.0), 2, id="flux-two-named-calls"),
        pytest.param("flux", _true_cfg(1.0), 1, id="flux-distilled"),
        pytest.param("lumina2", {}, 2, id="lumina2-two-calls"),
        pytest.param("chroma", {}, 2, id="chroma-two-calls"),
        pytest.param("cogview4", {}, 2, id="cogview4-two-named-calls"),
        pytest.param("flux2", {}, 1, id="flux2-distilled"),
        pytest.param("flux2_klein", {}, 2, id="flux2-klein-two-named-calls"),
        pytest.param("flux2_klein", {"guidance_scale": 1.0}, 1, id="flux2-klein-off"),
        pytest.param("z_image", {}, 1, id="z-image-one-batch-in-a-list"),
        pytest.param("z_image", {"guidance_scale": 0.0}, 1, id="z-image-turbo"),
        pytest.param("hidream", {}, 1, id="hidream-one-batch"),
        pytest.param("pixart", {"num_images_per_prompt": 3}, 1, id="pixart-three-images"),
        pytest.param("flux", {"num_images_per_prompt": 2}, 1, id="flux-two-images"),
    ],
)
def test_layouts(name: str, more: dict[str, Any], per_step: int) -> None:
    plain_pipe, pipe = tiny_pipeline(name), tiny_pipeline(name)
    denoiser = find_denoisers(plain_pipe)[0][1]
    schedule = every_second(denoiser, STEPS)
    with replayed(denoiser, schedule, lambda call: (call // per_step, call % per_step)) as seen:
        expected = _run(plain_pipe, name, **more)
    assert len(seen) == STEPS * per_step
    accelerate_pipeline(pipe, config(schedule), strict=True)
    assert torch.equal(_run(pipe, name, **more), expected)
    assert summary(pipe).denoisers[0].last_run.restarts == {}


@pytest.mark.parametrize("name", ["sd", "sd3", "wan"])
def test_guidance_switched_off_part_way(name: str) -> None:
    """In one batch the batch halves; in two calls the second one disappears."""
    at = 3  # the step after which guidance is off: 4 steps with, 4 without

    def switch_off(pipe: Any, step: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step == at:
            pipe._guidance_scale = 0.0
            if name in ("sd", "sd3"):
                return {key: value[1:] for key, value in kwargs.items() if "prompt" in key or "pooled" in key}
        return {}

    tensors = {"sd": ["prompt_embeds"], "sd3": ["prompt_embeds", "pooled_prompt_embeds"]}.get(name, ["latents"])
    more: dict[str, Any] = {"callback_on_step_end": switch_off, "callback_on_step_end_tensor_inputs": tensors}
    locate: Callable[[int], Any] = lambda call: (call, "both" if call <= at else "one")  # noqa: E731
    if name == "wan":
        locate = lambda call: (call // 2, call % 2) if call < 8 else (call - 4, 0)  # noqa: E731
    plain_pipe, pipe = tiny_pipeline(name), tiny_pipeline(name)
    denoiser = find_denoisers(plain_pipe)[0][1]
    schedule = every_second(denoiser, STEPS)
    with replayed(denoiser, schedule, locate) as seen:
        expected = _run(plain_pipe, name, **more)
    assert len(seen) == (12 if name == "wan" else 8)
    accelerate_pipeline(pipe, config(schedule))
    for _ in range(2):
        assert torch.equal(_run(pipe, name, **more), expected)
    assert summary(pipe).denoisers[0].last_run.actual_reuse > 0


Which = Callable[[int], tuple[str, ...]]


class Loop:
    """A user's own loop on a bare PixArt transformer, two calls a step, branches not named."""

    def __init__(self, which: Which, *, anew: bool = False, uncond_first: bool = True, grows_at: int = 99) -> None:
        self.which = which
        self.anew = anew
        self.grows_at = grows_at
        self.uncond_scale = 1.0  # of the latents that the second branch is given
        self.model = tiny_model("pixart")
        self.scheduler = diffusers.DDIMScheduler()
        generator = torch.Generator().manual_seed(6)
        self.text = {branch: torch.randn(1, 6, 12, generator=generator) for branch in ("uncond", "cond")}
        self.order = ("uncond", "cond") if uncond_first else ("cond", "uncond")

    def calls(self) -> list[tuple[int, str]]:
        return [(step, branch) for step in range(STEPS) for branch in self.order if branch in self.which(step)]

    def __call__(self) -> torch.Tensor:
        inputs = tiny_inputs("pixart", self.model, seed=4, batch=1)
        latents = inputs.pop("hidden_states")
        inputs.pop("timestep")
        inputs.pop("encoder_hidden_states")
        self.scheduler.set_timesteps(STEPS)
        for step, t in enumerate(self.scheduler.timesteps):
            found = {}
            if step == self.grows_at:
                latents = latents.repeat_interleave(2, dim=-1)
            for branch in self.order:
                if branch in self.which(step):
                    text = self.text[branch].clone() if self.anew else self.text[branch]
                    given = latents * self.uncond_scale if branch == "uncond" else latents
                    out = self.model(given, encoder_hidden_states=text, timestep=t.expand(1), **inputs)[0]
                    found[branch] = out.chunk(2, dim=1)[0]
            noise = found["cond"]
            if "uncond" in found:
                noise = found["uncond"] + 3.0 * (noise - found["uncond"])
            latents = self.scheduler.step(noise, t, latents)[0]
        return latents


BOTH = ("uncond", "cond")
INTERVALS: dict[str, Which] = {
    "always-both": lambda step: BOTH,
    "only-cond": lambda step: ("cond",),
    "switched-off": lambda step: BOTH if step < 4 else ("cond",),
    "switched-on": lambda step: BOTH if step >= 3 else ("cond",),
    "interval": lambda step: BOTH if 2 <= step < 5 else ("cond",),
    "every-other-step": lambda step: BOTH if step % 2 else ("cond",),
}


@pytest.mark.parametrize("anew", [False, True], ids=["same-tensors", "new-tensors"])
@pytest.mark.parametrize("uncond_first", [True, False], ids=["uncond-first", "cond-first"])
@pytest.mark.parametrize("interval", INTERVALS)
def test_two_unnamed_calls(interval: str, uncond_first: bool, anew: bool) -> None:
    """A branch that pauses starts anew; the other one goes on, whichever of them is called first."""
    which = INTERVALS[interval]
    plain, fast = (Loop(which, anew=anew, uncond_first=uncond_first) for _ in range(2))
    schedule = every_second(plain.model, STEPS)
    calls = plain.calls()

    def locate(call: int) -> tuple[int, Any]:
        step, branch = calls[call]
        first = step
        while first > 0 and (first - 1, branch) in calls:
            first -= 1
        return step, (branch, first)  # a new label when the branch was not called in the step before

    with replayed(plain.model, schedule, locate) as seen:
        expected = plain()
    assert [(step, label[0]) for step, label in seen] == calls
    accelerate_pipeline(fast.model, config(schedule), scheduler=fast.scheduler)
    for _ in range(2):
        assert torch.equal(fast(), expected)
    stats = summary(fast.model).denoisers[0].last_run
    assert stats.actual_reuse == stats.planned_reuse > 0
    assert stats.calls == len(calls)


@pytest.mark.parametrize("anew", [False, True], ids=["same-tensors", "new-tensors"])
@pytest.mark.parametrize("interval", ["always-both", "switched-off"])
def test_branches_of_equal_conditioning_are_never_mixed_up(interval: str, anew: bool) -> None:
    """They differ in their latents only: nothing that costs nothing can tell them apart, so they compute."""
    plain, fast = (Loop(INTERVALS[interval], anew=anew) for _ in range(2))
    for loop in (plain, fast):
        loop.text["uncond"] = loop.text["cond"]
        loop.uncond_scale = 0.5
    schedule = every_second(plain.model, STEPS)
    calls = plain.calls()
    alone = 4 if interval == "switched-off" else STEPS
    with replayed(plain.model, schedule, lambda call: (calls[call][0], call if calls[call][0] < alone else "alone")):
        expected = plain()
    accelerate_pipeline(fast.model, config(schedule), scheduler=fast.scheduler)
    if interval == "always-both":
        with pytest.warns(AccelerationWarning, match="reused none .*nothing to tell the branches by"):
            assert torch.equal(fast(), expected)
    assert torch.equal(fast(), expected)


def test_latents_that_grow_part_way_start_anew() -> None:
    plain, fast = (Loop(lambda step: ("cond",), grows_at=3) for _ in range(2))
    schedule = every_second(plain.model, STEPS)
    with replayed(plain.model, schedule, lambda call: (call, call >= 3)):
        expected = plain()
    accelerate_pipeline(fast.model, config(schedule), scheduler=fast.scheduler)
    assert torch.equal(fast(), expected)
    assert summary(fast.model).denoisers[0].last_run.restarts == {"another shape than expected": 1}


def test_a_branch_that_is_left_out_keeps_no_memory() -> None:
    loop = Loop(INTERVALS["switched-off"])
    plan = config(Schedule(STEPS, {"blocks.0.ff": "1" + "0" * (STEPS - 1)}), invariants=False)
    accelerate_pipeline(loop.model, plan, scheduler=loop.scheduler)
    branches = loop.model._dit_accel.runtimes[0]._branches
    held = []
    loop.model.register_forward_hook(lambda *_: held.append(sum(track.kept_bytes() for track in branches)))
    loop()
    calls = loop.calls()
    both, one = held[calls.index((3, "uncond"))], held[calls.index((5, "cond"))]
    assert both == 2 * one > 0


def test_conditioning_that_changes_on_the_way_starts_anew() -> None:
    """Prompt travel: text projections must not be those of the old prompt."""
    for name in ("lossless", "every_n"):
        plain, fast = Loop(lambda step: ("cond",)), Loop(lambda step: ("cond",))
        if name == "every_n":
            schedule = every_second(plain.model, STEPS)
            plan: Any = config(schedule)
        else:
            schedule, plan = Schedule(STEPS, {}), "lossless"
        for loop in (plain, fast):
            other = torch.randn(1, 6, 12, generator=torch.Generator().manual_seed(12))

            def travel(module: Any, args: Any, loop: Loop = loop, other: torch.Tensor = other) -> None:
                loop.steps = getattr(loop, "steps", -1) + 1  # type: ignore[attr-defined]
                if loop.steps % STEPS == 4:  # type: ignore[attr-defined]
                    loop.text["cond"].lerp_(other, 0.5)  # in place: the same tensor

            loop.model.transformer_blocks[-1].register_forward_pre_hook(travel)
        # the change is made inside call 4, so call 5 is the first to see it
        with replayed(plain.model, schedule, lambda call: (call, call >= 5)):
            expected = plain()
        accelerate_pipeline(fast.model, plan, scheduler=fast.scheduler)
        assert torch.equal(fast(), expected)
        assert summary(fast.model).denoisers[0].last_run.restarts == {"the conditioning changed": 1}


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_wan22_hands_over_between_two_denoisers(guidance: float) -> None:
    plain_pipe, pipe = tiny_pipeline("wan22"), tiny_pipeline("wan22")
    per_step = 2 if guidance > 1 else 1
    counts = {"transformer": 0, "transformer_2": 0}
    for part in counts:
        getattr(plain_pipe, part).register_forward_hook(
            lambda *_, part=part: counts.__setitem__(part, counts[part] + 1)
        )
    plain = _run(plain_pipe, "wan22", guidance_scale=guidance)
    boundary = counts["transformer"] // per_step
    assert counts["transformer_2"] // per_step == STEPS - boundary > 1 < boundary
    schedule = every_second(plain_pipe.transformer, STEPS)
    with (
        replayed(plain_pipe.transformer, schedule, lambda c: (c // per_step, c % per_step)),
        replayed(plain_pipe.transformer_2, schedule, lambda c: (boundary + c // per_step, c % per_step)),
    ):
        expected = _run(plain_pipe, "wan22", guidance_scale=guidance)
    accelerate_pipeline(pipe, config(schedule), strict=True)
    for _ in range(2):
        got = _run(pipe, "wan22", guidance_scale=guidance)
        assert torch.equal(got, expected)
    assert not torch.equal(got, plain)
    high, low = (denoiser.last_run for denoiser in summary(pipe).denoisers)
    assert (high.calls, low.calls) == (boundary * per_step, (STEPS - boundary) * per_step)
    assert high.actual_reuse > 0 and low.actual_reuse > 0


def test_a_plan_that_never_gets_to_reuse_says_so() -> None:
    pipe = accelerate_pipeline(tiny_pipeline("sd"), config(GeneratorSpec("every_n", n=2)))
    with pytest.warns(AccelerationWarning, match=r"a run of 2 denoiser evaluations has little to reuse"):
        _run(pipe, "sd", num_inference_steps=2)
    loop = Loop(lambda step: BOTH)
    loop.model = tiny_model("pixart")
    texts = iter(range(10**6))

    def change(module: Any, args: Any) -> None:
        loop.text["cond"] += next(texts)
        loop.text["uncond"] += 1

    loop.model.register_forward_pre_hook(change)
    accelerate_pipeline(loop.model, config(GeneratorSpec("every_n", n=2)), scheduler=loop.scheduler)
    with pytest.warns(AccelerationWarning, match=r"reused none \(the conditioning changed, 14 times\)"):
        loop()
