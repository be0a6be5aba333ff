"""What could make a kept value wrong: outputs modified in place, conditioning made anew, adapters, FreeU, dtypes."""

import warnings
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from reference import config, every_second, graph_of, replayed, tensor_of
from tiny import tiny_call, tiny_model, tiny_pipeline

from dit_accel import accelerate_pipeline, remove_acceleration, summary
from dit_accel.errors import AccelerationWarning
from dit_accel.runtime.trees import leaves
from dit_accel.schedules import GeneratorSpec, Schedule

STEPS = 8


def _run(pipe: Any, name: str, **more: Any) -> torch.Tensor:
    return tensor_of(pipe(**tiny_call(name, **{"num_inference_steps": STEPS, **more})))


@pytest.mark.parametrize("site", ["blocks.1.attn1", "blocks.1.ff"])
def test_a_kept_output_that_is_modified_in_place(site: str) -> None:
    """The first run notices at the first reuse and computes there; from then on copies are kept."""
    pipes = [tiny_pipeline("pixart") for _ in range(2)]
    for pipe in pipes:
        module = pipe.transformer.get_submodule(site.replace("blocks", "transformer_blocks"))

        # Outermost of all hooks: what the block's own code does with the output.
        def double(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
            return output.mul_(2.0)

        pipe.double = lambda module=module, double=double: module.register_forward_hook(double)
    plain_pipe, pipe = pipes
    row = "10101010"
    schedule = Schedule(STEPS, {site: row})
    with replayed(plain_pipe.transformer, schedule):
        plain_pipe.double()  # registered last, so it runs after the replay's hook
        expected = _run(plain_pipe, "pixart")
    accelerate_pipeline(pipe, config(schedule))
    pipe.double()
    first = _run(pipe, "pixart")
    noticed = summary(pipe).denoisers[0].last_run.restarts
    assert noticed == {"a kept output was modified in place": 1}
    second = _run(pipe, "pixart")
    assert summary(pipe).denoisers[0].last_run.restarts == {}
    assert torch.equal(second, expected)
    # In the first run everything was computed at step 1, then the schedule went on.
    repaired = tiny_pipeline("pixart")
    module = repaired.transformer.get_submodule(site.replace("blocks", "transformer_blocks"))
    with replayed(repaired.transformer, Schedule(STEPS, {site: "1" + "1" + row[2:]})):
        module.register_forward_hook(lambda m, a, output: output.mul_(2.0))
        assert torch.equal(first, _run(repaired, "pixart"))


def test_a_kept_model_output_that_is_modified_in_place() -> None:
    plain_pipe, pipe = tiny_pipeline("sd"), tiny_pipeline("sd")
    schedule = Schedule(STEPS, {"model": "10101010"})

    def double(module: Any, args: Any, output: Any) -> Any:
        output[0].mul_(0.5)
        return output

    with replayed(plain_pipe.unet, schedule):
        plain_pipe.unet.register_forward_hook(double)
        expected = _run(plain_pipe, "sd")
    accelerate_pipeline(pipe, config(schedule, invariants=False))
    pipe.unet.register_forward_hook(double)
    _run(pipe, "sd")
    assert summary(pipe).denoisers[0].last_run.restarts == {"a kept output was modified in place": 1}
    assert torch.equal(_run(pipe, "sd"), expected)
    assert summary(pipe).denoisers[0].last_run.actual_reuse == STEPS // 2


@pytest.mark.parametrize("site", ["blocks.1.ff", "model"])
def test_in_inference_mode_copies_are_kept_from_the_first_run_on(site: str) -> None:
    """Inference tensors count no changes: one that was modified in place would be answered as it is."""
    drawn = []
    for in_inference_mode in (False, True):
        pipe = tiny_pipeline("pixart")
        schedule = Schedule(STEPS, {site: "10101010"})
        accelerate_pipeline(pipe, config(schedule, invariants=False))
        pipe.transformer.get_submodule("" if site == "model" else "transformer_blocks.1.ff").register_forward_hook(
            lambda module, args, output: (leaves(output)[0].mul_(0.5), output)[1]
        )
        with torch.inference_mode(in_inference_mode):
            made = [_run(pipe, "pixart").clone() for _ in range(2)]
        assert summary(pipe).denoisers[0].last_run.restarts == {}
        assert summary(pipe).denoisers[0].last_run.actual_reuse == STEPS // 2
        drawn.append(made)
    (_, expected), (first, second) = drawn  # without inference mode the first run has to notice
    assert torch.equal(first, expected) and torch.equal(second, expected)


def test_conditioning_that_changes_in_place_in_inference_mode() -> None:
    drawn = []
    for in_inference_mode in (False, True):
        pipe = tiny_pipeline("pixart")
        calls: list[int] = []

        def travel(module: Any, args: Any, kwargs: dict[str, Any], output: Any, calls: list[int] = calls) -> None:
            calls.append(1)
            if len(calls) == 4:
                kwargs["encoder_hidden_states"].mul_(0.5)

        accelerate_pipeline(pipe, "lossless")
        pipe.transformer.register_forward_hook(travel, with_kwargs=True)
        with torch.inference_mode(in_inference_mode):
            drawn.append(_run(pipe, "pixart").clone())
        assert summary(pipe).denoisers[0].last_run.restarts == {"the conditioning changed": 1}
    assert torch.equal(*drawn)


@pytest.mark.parametrize("plan", ["deepcache", "every_n"])
def test_freeu_modifies_up_block_inputs_in_place(plan: str) -> None:
    spec = GeneratorSpec(plan, n=2)
    plain_pipe, pipe = tiny_pipeline("sd"), tiny_pipeline("sd")
    for one in (plain_pipe, pipe):
        one.enable_freeu(s1=0.9, s2=0.2, b1=1.4, b2=1.6)
    with replayed(plain_pipe.unet, spec.build(graph_of(plain_pipe.unet), STEPS)):
        expected = _run(plain_pipe, "sd")
    accelerate_pipeline(pipe, config(spec))  # type: ignore[arg-type]
    _run(pipe, "sd")
    for _ in range(2):
        assert torch.equal(_run(pipe, "sd"), expected)


@pytest.mark.parametrize("name", ["pixart", "wan"])
def test_conditioning_made_anew_at_every_step(name: str) -> None:
    def anew(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "encoder_hidden_states": kwargs["encoder_hidden_states"].clone()}

    plain = _run(tiny_pipeline(name), name)
    fast = _run(accelerate_pipeline(tiny_pipeline(name), "balanced"), name)
    pipe = tiny_pipeline(name)
    pipe.transformer.register_forward_pre_hook(anew, with_kwargs=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", AccelerationWarning)
        accelerate_pipeline(pipe, "lossless", strict=True)
        for _ in range(2):
            assert torch.equal(_run(pipe, name), plain)
        assert summary(pipe).denoisers[0].last_run.actual_reuse > 0
        accelerate_pipeline(pipe, "balanced", strict=True)
        for _ in range(2):
            assert torch.equal(_run(pipe, name), fast)
            assert summary(pipe).denoisers[0].last_run.restarts == {}


LORA = {
    "flux": ["to_q", "to_k", "proj_out", "context_embedder", "ff.net.2"],
    "sd3": ["to_q", "to_k", "to_v", "ff.net.2", "context_embedder"],
    "wan": ["to_q", "to_k", "ffn.net.2"],
    "sd": ["to_q", "to_k", "to_v"],
}


def _add_lora(pipe: Any, name: str) -> None:
    denoiser = pipe.unet if name == "sd" else pipe.transformer
    torch.manual_seed(0)
    denoiser.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=LORA[name], init_lora_weights=False), "mine")
    denoiser.eval().requires_grad_(False)


def _drop_lora(pipe: Any, name: str) -> None:
    (pipe.unet if name == "sd" else pipe.transformer).delete_adapters("mine")


@pytest.mark.parametrize("name", LORA)
def test_lora_loaded_before_and_after(name: str) -> None:
    before, after, never = (tiny_pipeline(name) for _ in range(3))
    plan = "balanced"
    base = _run(accelerate_pipeline(never, plan), name)
    _add_lora(before, name)
    accelerate_pipeline(before, plan)
    expected = _run(before, name)
    assert not torch.equal(expected, base)
    accelerate_pipeline(after, plan)
    assert torch.equal(_run(after, name), base)
    _add_lora(after, name)
    for _ in range(2):
        assert torch.equal(_run(after, name), expected)
        stats = summary(after).denoisers[0].last_run
        assert stats.actual_reuse == stats.planned_reuse
    _drop_lora(after, name)
    torch.testing.assert_close(_run(after, name), base, rtol=0, atol=0)
    remove_acceleration(after)
    assert torch.equal(_run(after, name), _run(tiny_pipeline(name), name))
    remove_acceleration(before)
    denoiser = before.unet if name == "sd" else before.transformer
    assert not any("dit_accel" in type(v).__module__ for m in denoiser.modules() for v in vars(m).values())


def test_a_denoiser_inside_a_peft_model() -> None:
    targets = ["to_q", "to_k", "to_v", "ff.net.2"]
    pipes = [tiny_pipeline("pixart") for _ in range(2)]
    for pipe in pipes:
        torch.manual_seed(0)
        adapter = LoraConfig(r=2, lora_alpha=4, target_modules=targets, init_lora_weights=False)
        pipe.transformer = get_peft_model(pipe.transformer, adapter).eval().requires_grad_(False)
    plain_pipe, pipe = pipes
    inner = plain_pipe.transformer.base_model.model
    schedule = every_second(inner, STEPS)
    with replayed(inner, schedule):
        expected = _run(plain_pipe, "pixart")
    plain = _run(plain_pipe, "pixart")
    accelerate_pipeline(pipe, config(schedule))
    assert torch.equal(_run(pipe, "pixart"), expected)
    remove_acceleration(pipe)
    assert torch.equal(_run(pipe, "pixart"), plain)


@pytest.mark.parametrize("order", ["plan-first", "lora-first"])
def test_lora_against_the_replay_and_fused(order: str) -> None:
    plain_pipe, pipe = tiny_pipeline("flux"), tiny_pipeline("flux")
    schedule = every_second(plain_pipe.transformer, STEPS)
    _add_lora(plain_pipe, "flux")
    steps = [lambda: _add_lora(pipe, "flux"), lambda: accelerate_pipeline(pipe, config(schedule))]
    for step in steps if order == "lora-first" else reversed(steps):
        step()
    with replayed(plain_pipe.transformer, schedule):
        expected = _run(plain_pipe, "flux")
    torch.testing.assert_close(_run(pipe, "flux"), expected, rtol=0, atol=0)
    for one in (plain_pipe, pipe):
        one.transformer.fuse_lora()
    with replayed(plain_pipe.transformer, schedule):
        fused = _run(plain_pipe, "flux")
    torch.testing.assert_close(_run(pipe, "flux"), fused, rtol=0, atol=0)
    for one in (plain_pipe, pipe):
        one.transformer.unfuse_lora()
    torch.testing.assert_close(_run(pipe, "flux"), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_low_and_high_precision_keep_their_dtype(dtype: torch.dtype) -> None:
    model = tiny_model("pixart").to(dtype)
    pipe, plain_pipe = tiny_pipeline("pixart"), tiny_pipeline("pixart")
    for one in (pipe, plain_pipe):
        one.to(dtype)
    schedule = every_second(model, STEPS)
    more = {key: value.to(dtype) for key, value in tiny_call("pixart").items() if "embeds" in key}
    with replayed(plain_pipe.transformer, schedule):
        expected = _run(plain_pipe, "pixart", **more)
    accelerate_pipeline(pipe, config(schedule))
    got = _run(pipe, "pixart", **more)
    assert got.dtype == expected.dtype
    assert torch.equal(got, expected)
