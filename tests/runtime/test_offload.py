"""CPU and group offload, on the CPU: before and after acceleration, removed in either order, over several runs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, attach_align_device_hook, remove_hook_from_module
from diffusers.hooks import HookRegistry, apply_group_offloading
from diffusers.hooks import ModelHook as DiffusersHook
from reference import tensor_of
from snapshot import assert_same, snapshot
from tiny import tiny_call, tiny_pipeline

from dit_accel import accelerate_pipeline, remove_acceleration, summary
from dit_accel.families.pipeline import find_denoisers

NAME = "pixart"


def _run(pipe: Any, name: str = NAME) -> torch.Tensor:
    return tensor_of(pipe(**tiny_call(name, num_inference_steps=4)))


class Counting(ModelHook):
    def __init__(self) -> None:
        self.calls = 0

    def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        self.calls += 1
        return args, kwargs


class CountingDiffusers(DiffusersHook):
    def __init__(self, *, replaces: bool) -> None:
        super().__init__()
        self.calls = 0
        if replaces:
            self.new_forward = self._new_forward

    def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        self.calls += 1
        return args, kwargs

    def _new_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        return self.fn_ref.original_forward(*args, **kwargs)


def _install(kind: str, module: Any) -> tuple[Any, Callable[[], None]]:
    if kind == "accelerate":
        hook = Counting()
        add_hook_to_module(module, hook)
        return hook, lambda: remove_hook_from_module(module)
    diffusers_hook = CountingDiffusers(replaces=kind == "diffusers-new-forward")
    registry = HookRegistry.check_if_exists_or_initialize(module)
    registry.register_hook(diffusers_hook, "counting")
    return diffusers_hook, lambda: registry.remove_hook("counting", recurse=False)


@pytest.mark.parametrize("removed_first", ["hook", "plan"])
@pytest.mark.parametrize("installed_first", ["hook", "plan"])
@pytest.mark.parametrize("kind", ["accelerate", "diffusers", "diffusers-new-forward"])
@pytest.mark.parametrize("where", ["", "transformer_blocks.1.attn1", "transformer_blocks.1.norm1"])
def test_hooks_of_others(kind: str, installed_first: str, removed_first: str, where: str) -> None:
    fast = _run(accelerate_pipeline(tiny_pipeline(NAME), "balanced"))
    pipe = tiny_pipeline(NAME)
    plain = _run(pipe)
    module = pipe.transformer.get_submodule(where)
    if installed_first == "hook":
        hook, uninstall = _install(kind, module)
    accelerate_pipeline(pipe, "balanced")
    if installed_first == "plan":
        hook, uninstall = _install(kind, module)
    assert torch.equal(_run(pipe), fast)
    assert hook.calls == 4, "the hook goes on running"
    if removed_first == "hook":
        uninstall()
        assert torch.equal(_run(pipe), fast), "the plan is no longer in force"
        assert summary(pipe).denoisers[0].last_run.actual_reuse > 0
        remove_acceleration(pipe)
    else:
        remove_acceleration(pipe)
        assert torch.equal(_run(pipe), plain)
        assert hook.calls == 8
        uninstall()
    assert torch.equal(_run(pipe), plain)
    # What accelerate and diffusers leave of themselves is a bound method called forward; nothing of ours is there.
    left = vars(module).get("forward")
    assert left is None or left == type(module).forward.__get__(module)
    assert not any(
        "dit_accel" in type(value).__module__ for m in pipe.transformer.modules() for value in vars(m).values()
    )


@pytest.mark.parametrize("order", ["offload-first", "plan-first"])
@pytest.mark.parametrize("name", ["pixart", "sd", "flux", "wan22"])
def test_model_cpu_offload(name: str, order: str) -> None:
    """Pipelines take these hooks off and put them on again after every call."""
    pipe = tiny_pipeline(name)
    fast = _run(accelerate_pipeline(tiny_pipeline(name), "balanced"), name)
    plain = _run(pipe, name)
    if order == "plan-first":
        accelerate_pipeline(pipe, "balanced")
    pipe.enable_model_cpu_offload(device="cpu")
    if order == "offload-first":
        accelerate_pipeline(pipe, "balanced")
    for _ in range(3):
        assert torch.equal(_run(pipe, name), fast)
    remove_acceleration(pipe)
    for _ in range(2):
        assert torch.equal(_run(pipe, name), plain)
    pipe.remove_all_hooks()
    assert torch.equal(_run(pipe, name), plain)


@pytest.mark.parametrize("order", ["offload-first", "plan-first"])
def test_hooks_on_every_module(order: str) -> None:
    """As sequential offload has them; on the CPU there is nothing to move, so they only align devices."""
    pipe = tiny_pipeline(NAME)
    fast = _run(accelerate_pipeline(tiny_pipeline(NAME), "balanced"))
    plain = _run(pipe)
    if order == "plan-first":
        accelerate_pipeline(pipe, "balanced")
    attach_align_device_hook(pipe.transformer, execution_device=torch.device("cpu"), offload=False)
    if order == "offload-first":
        accelerate_pipeline(pipe, "balanced")
    for _ in range(2):
        assert torch.equal(_run(pipe), fast)
    remove_acceleration(pipe)
    assert torch.equal(_run(pipe), plain)


@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
@pytest.mark.parametrize("order", ["offload-first", "plan-first"])
def test_group_offload(order: str, kind: str) -> None:
    pipe = tiny_pipeline(NAME)
    fast = _run(accelerate_pipeline(tiny_pipeline(NAME), "balanced"))
    plain = _run(pipe)
    if order == "plan-first":
        accelerate_pipeline(pipe, "balanced")
    more = {"num_blocks_per_group": 1} if kind == "block_level" else {}
    apply_group_offloading(pipe.transformer, torch.device("cpu"), torch.device("cpu"), kind, **more)
    if order == "offload-first":
        accelerate_pipeline(pipe, "balanced")
    for _ in range(2):
        assert torch.equal(_run(pipe), fast)
    remove_acceleration(pipe)
    assert torch.equal(_run(pipe), plain)


def test_hooks_on_top_are_still_undone_exactly() -> None:
    """The plan goes on and off under hooks that stay: the hooks' own state is what it was."""
    pipe = tiny_pipeline(NAME)
    _install("accelerate", pipe.transformer)
    _install("diffusers", pipe.transformer.transformer_blocks[0].attn1)
    _run(pipe)
    before = snapshot(pipe)
    reference = pipe.transformer.transformer_blocks[0].attn1._diffusers_hook._fn_refs[0].forward
    accelerate_pipeline(pipe, "balanced")
    _run(pipe)
    remove_acceleration(pipe)
    assert_same(before, snapshot(pipe))
    assert pipe.transformer.transformer_blocks[0].attn1._diffusers_hook._fn_refs[0].forward == reference
    assert find_denoisers(pipe)[0][1] is pipe.transformer


def test_a_gate_that_someone_replaced_is_reported() -> None:
    pipe = accelerate_pipeline(tiny_pipeline(NAME), "balanced")
    pipe.transformer.forward = type(pipe.transformer).forward.__get__(pipe.transformer)
    with pytest.warns(UserWarning, match=r"someone has replaced 'transformer\.forward'"):
        _run(pipe)
