"""Nothing leaks: between runs, prompts, shapes, batch sizes, step counts, failures, pipelines, or items of a batch."""

import itertools
from typing import Any

import pytest
import torch
from reference import config, tensor_of
from tiny import tiny_call, tiny_pipeline

from dit_accel import accelerate_pipeline, remove_acceleration, summary
from dit_accel.families.pipeline import find_denoisers
from dit_accel.schedules import GeneratorSpec

PLAN = config(GeneratorSpec("every_n", n=2))  # type: ignore[arg-type]


def _randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _request(name: str, kind: str) -> dict[str, Any]:
    """Keyword arguments of one call, always with fresh tensors and a fresh generator."""
    call = tiny_call(name, num_inference_steps=6)
    text = call["prompt_embeds"].shape
    variants: dict[str, dict[str, Any]] = {
        "first": {},
        "prompt": {"prompt_embeds": _randn(*text, seed=31)},
        "seed": {"generator": torch.Generator().manual_seed(17)},
        "size": {"height": 96, "width": 128},
        "batch": {"num_images_per_prompt": 2} if name != "wan" else {"num_videos_per_prompt": 2},
        "steps": {"num_inference_steps": 9},
        "fewer": {"num_inference_steps": 5},
        "unguided": {"guidance_scale": 1.0},
    }
    return {**call, **variants[kind]}


KINDS = ("prompt", "seed", "size", "batch", "steps", "fewer", "unguided")


@pytest.mark.parametrize("name", ["pixart", "flux", "sd", "wan", "flux2"])
def test_a_then_b_equals_b_alone(name: str) -> None:
    used = accelerate_pipeline(tiny_pipeline(name), PLAN)
    alone = {}
    for kind in ("first", *KINDS):
        alone[kind] = tensor_of(accelerate_pipeline(tiny_pipeline(name), PLAN)(**_request(name, kind)))
    order = [kind for pair in itertools.zip_longest(("first",) * len(KINDS), KINDS) for kind in pair]
    for kind in order:
        assert torch.equal(tensor_of(used(**_request(name, kind))), alone[kind]), kind
        assert summary(used).denoisers[0].last_run.restarts == {}
    assert not torch.equal(alone["prompt"], alone["first"])


@pytest.mark.parametrize("at", range(6))
@pytest.mark.parametrize("how", ["exception", "interrupt", "keyboard"])
def test_after_a_run_that_did_not_finish(how: str, at: int) -> None:
    pipe = accelerate_pipeline(tiny_pipeline("flux"), PLAN)
    alone = tensor_of(pipe(**_request("flux", "prompt")))

    def stop(p: Any, step: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step == at:
            if how == "interrupt":
                p._interrupt = True
            else:
                raise KeyboardInterrupt if how == "keyboard" else RuntimeError("boom")
        return kwargs

    call = {**_request("flux", "first"), "callback_on_step_end": stop}
    if how == "interrupt":
        pipe(**call)
    else:
        with pytest.raises((KeyboardInterrupt, RuntimeError)):
            pipe(**call)
    assert torch.equal(tensor_of(pipe(**_request("flux", "prompt"))), alone)


def test_two_pipelines_of_one_class_do_not_see_each_other() -> None:
    plain, fast, faster = (tiny_pipeline("pixart") for _ in range(3))
    accelerate_pipeline(fast, PLAN)
    accelerate_pipeline(faster, config(GeneratorSpec("every_n", n=3)))  # type: ignore[arg-type]
    pipes = (plain, fast, faster)
    first = [tensor_of(pipe(**_request("pixart", "first"))) for pipe in pipes]
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[1], first[2])
    for pipe, expected in reversed(list(zip(pipes, first, strict=True))):
        assert torch.equal(tensor_of(pipe(**_request("pixart", "first"))), expected)
    remove_acceleration(fast)
    assert torch.equal(tensor_of(fast(**_request("pixart", "first"))), first[0])
    assert torch.equal(tensor_of(faster(**_request("pixart", "first"))), first[2])


def test_two_pipelines_may_run_in_turns() -> None:
    """One runs inside a step callback of the other."""
    outer, inner = (accelerate_pipeline(tiny_pipeline("flux"), PLAN) for _ in range(2))
    expected = [tensor_of(outer(**_request("flux", kind))) for kind in ("first", "prompt")]
    got = []

    def run_inner(p: Any, step: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step in (1, 2):
            got.append(tensor_of(inner(**_request("flux", "prompt"))))
        return kwargs

    assert torch.equal(
        tensor_of(outer(**{**_request("flux", "first"), "callback_on_step_end": run_inner})), expected[0]
    )
    assert all(torch.equal(item, expected[1]) for item in got) and len(got) == 2


@pytest.mark.parametrize("name", ["pixart", "sd", "flux"])
def test_items_of_a_batch_do_not_see_each_other(name: str) -> None:
    pipe = accelerate_pipeline(tiny_pipeline(name), PLAN)
    call = _request(name, "first")
    shape = (3, *find_latents(pipe, call).shape[1:])
    latents = _randn(*shape, seed=40)
    order = [2, 0, 1]

    def batch(indices: list[int]) -> torch.Tensor:
        more = {"latents": latents[indices], "num_images_per_prompt": 3}
        return tensor_of(pipe(**{**_request(name, "first"), **more}))

    torch.testing.assert_close(batch(order), batch([0, 1, 2])[order], rtol=1e-4, atol=1e-4)


def find_latents(pipe: Any, call: dict[str, Any]) -> torch.Tensor:
    """The first latents that the denoiser is given for one image, without guidance."""
    seen: list[torch.Tensor] = []
    denoiser = find_denoisers(pipe)[0][1]
    handle = denoiser.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs.get("hidden_states", args[0] if args else None)),
        with_kwargs=True,
    )
    pipe(**{**call, "num_inference_steps": 5})
    handle.remove()
    return seen[0]
