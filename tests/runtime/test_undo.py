"""Apply, then remove: nothing is left, whatever happened between."""

import contextlib
import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from reference import config, tensor_of
from snapshot import assert_same, snapshot
from tiny import TINY_PIPELINE_NAMES, tiny_call, tiny_model, tiny_pipeline

from dit_accel import accelerate_pipeline, accelerated, is_accelerated, remove_acceleration, summary
from dit_accel.errors import AccelerationWarning, ConfigError, DitAccelError
from dit_accel.families.pipeline import find_denoisers
from dit_accel.passes.base import PASSES, Pass
from dit_accel.plan.config import PassConfig
from dit_accel.schedules import GeneratorSpec

UNET_PLANS = [config(GeneratorSpec("deepcache", n=2)), config(GeneratorSpec("encoder_propagation", key_steps=[0, 2]))]


def _run(pipe: Any, name: str, **more: Any) -> torch.Tensor:
    return tensor_of(pipe(**tiny_call(name, **{"num_inference_steps": 6, **more})))


@pytest.mark.parametrize("name", TINY_PIPELINE_NAMES)
def test_apply_run_remove(name: str) -> None:
    pipe = tiny_pipeline(name)
    plain = _run(pipe, name)
    before = snapshot(pipe)
    keys = list(find_denoisers(pipe)[0][1].state_dict())
    for plan in ("balanced", config(GeneratorSpec("model_output", n=2))):
        assert accelerate_pipeline(pipe, plan) is pipe
        assert is_accelerated(pipe)
        assert list(find_denoisers(pipe)[0][1].state_dict()) == keys
        assert not torch.equal(_run(pipe, name), plain)
        assert remove_acceleration(pipe) is pipe
        assert not is_accelerated(pipe)
        assert_same(before, snapshot(pipe))
        assert torch.equal(_run(pipe, name), plain)


@pytest.mark.parametrize("plan", UNET_PLANS, ids=["deepcache", "encoder_propagation"])
def test_unet_plans(plan: PassConfig) -> None:
    pipe = tiny_pipeline("sd")
    plain = _run(pipe, "sd")
    before = snapshot(pipe)
    with accelerated(pipe, plan):
        assert not torch.equal(_run(pipe, "sd"), plain)
    assert_same(before, snapshot(pipe))
    assert torch.equal(_run(pipe, "sd"), plain)


def test_apply_without_a_run_leaves_nothing_either() -> None:
    pipe = tiny_pipeline("pixart")
    before = snapshot(pipe)
    accelerate_pipeline(pipe, "turbo")
    assert summary(pipe).denoisers[0].last_run is None
    remove_acceleration(pipe)
    assert_same(before, snapshot(pipe))


def test_applying_twice_replaces() -> None:
    pipe = tiny_pipeline("pixart")
    before = snapshot(pipe)
    accelerate_pipeline(pipe, "turbo")
    accelerate_pipeline(pipe, "balanced")
    accelerate_pipeline(pipe, "lossless")
    assert summary(pipe).plan == "lossless"
    twice = _run(pipe, "pixart")
    remove_acceleration(pipe)
    assert_same(before, snapshot(pipe))
    assert torch.equal(twice, _run(pipe, "pixart"))
    with pytest.warns(AccelerationWarning, match="not accelerated"):
        remove_acceleration(pipe)
    assert_same(before, snapshot(pipe))


def test_with_block_gives_back_what_was_applied_before() -> None:
    pipe = tiny_pipeline("pixart")
    plain = snapshot(pipe)
    accelerate_pipeline(pipe, "balanced")
    balanced = _run(pipe, "pixart")
    with accelerated(pipe, "lossless"):
        assert summary(pipe).plan == "lossless"
    assert summary(pipe).plan == "balanced"
    assert torch.equal(_run(pipe, "pixart"), balanced)
    with pytest.raises(KeyError), accelerated(pipe, "turbo"):
        raise KeyError("the user's own")
    assert summary(pipe).plan == "balanced"
    remove_acceleration(pipe)
    assert_same(plain, snapshot(pipe))


@contextlib.contextmanager
def _failing_pass():
    class FailingConfig(PassConfig):
        type_name = "failing"

    def fail(runtime: Any, config: Any) -> None:
        runtime.ledger.set(runtime.target.denoiser, "left_behind", 1, by="failing")
        raise DitAccelError("this pass fails half-way")

    failing = Pass(config=FailingConfig, summary="", phase="compile", example=FailingConfig, apply=fail)
    with PASSES.temporarily("failing", failing):
        yield FailingConfig()


def test_when_the_second_pass_fails_the_first_is_undone() -> None:
    pipe = tiny_pipeline("pixart")
    before = snapshot(pipe)
    with _failing_pass() as failing, pytest.raises(DitAccelError, match="half-way"):
        accelerate_pipeline(pipe, [config(GeneratorSpec("every_n", n=2)), failing])
    assert not is_accelerated(pipe)
    assert_same(before, snapshot(pipe))


def test_when_replacing_fails_the_old_plan_is_back() -> None:
    pipe = accelerate_pipeline(tiny_pipeline("pixart"), "balanced")
    balanced = _run(pipe, "pixart")
    with _failing_pass() as failing, pytest.raises(DitAccelError):
        accelerate_pipeline(pipe, [failing])
    assert summary(pipe).plan == "balanced"
    assert torch.equal(_run(pipe, "pixart"), balanced)


@pytest.mark.parametrize("where", ["block", "callback", "scheduler"])
def test_after_an_exception_inside_a_run(where: str) -> None:
    pipe = tiny_pipeline("pixart" if where != "callback" else "flux")
    name = "pixart" if where != "callback" else "flux"
    plain = _run(pipe, name)
    before = snapshot(pipe)
    accelerate_pipeline(pipe, "balanced")
    whole = _run(pipe, name)
    calls = iter(range(100))

    def explode(*args: Any, **kwargs: Any) -> None:
        if next(calls) == 2:
            raise RuntimeError("boom")

    more: dict[str, Any] = {}
    if where == "block":
        handle = pipe.transformer.transformer_blocks[1].register_forward_pre_hook(explode)
    elif where == "callback":
        more = {"callback_on_step_end": lambda p, i, t, kw: explode() or kw}
    else:
        native = pipe.scheduler.convert_model_output
        pipe.scheduler.convert_model_output = lambda *a, **k: explode() or native(*a, **k)
    with pytest.raises(RuntimeError, match="boom"):
        _run(pipe, name, **more)
    if where == "block":
        handle.remove()
    elif where == "scheduler":
        del pipe.scheduler.convert_model_output
    assert torch.equal(_run(pipe, name), whole)
    remove_acceleration(pipe)
    assert_same(before, snapshot(pipe))
    assert torch.equal(_run(pipe, name), plain)


@pytest.mark.parametrize("verb", ["apply", "replace", "remove"])
def test_refused_inside_a_running_call(verb: str) -> None:
    pipe = tiny_pipeline("flux")
    _run(pipe, "flux")  # diffusers leaves a hook registry at the first cache_context
    before = snapshot(pipe)
    if verb != "apply":
        accelerate_pipeline(pipe, "lossless")
    errors: list[str] = []

    def meddle(p: Any, step: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        with pytest.raises(DitAccelError) as caught:
            remove_acceleration(pipe) if verb == "remove" else accelerate_pipeline(pipe, "fast")
        errors.append(str(caught.value))
        return kwargs

    _run(pipe, "flux", callback_on_step_end=meddle)
    assert "FluxPipeline is running" in errors[0]
    assert "inside its own call" in errors[0]
    if verb != "apply":
        assert summary(pipe).plan == "lossless"
        remove_acceleration(pipe)
    assert_same(before, snapshot(pipe))


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("name", ["pixart", "flux"])
def test_a_copied_denoiser_is_a_plain_one(name: str, how: str) -> None:
    pipe = accelerate_pipeline(tiny_pipeline(name), "balanced")
    fast = _run(pipe, name)
    clone = copy.deepcopy if how == "deepcopy" else lambda x: pickle.loads(pickle.dumps(x))
    twin = tiny_pipeline(name)
    plain = _run(twin, name)
    twin.transformer = clone(pipe.transformer)
    assert torch.equal(_run(twin, name), plain)
    twin.scheduler = clone(pipe.scheduler)
    assert torch.equal(_run(twin, name), plain)
    assert torch.equal(_run(pipe, name), fast)
    accelerate_pipeline(twin, "balanced")
    assert torch.equal(_run(twin, name), fast)
    remove_acceleration(pipe)
    assert torch.equal(_run(twin, name), fast)


def test_a_copied_bare_denoiser_is_not_accelerated() -> None:
    model = tiny_model("pixart")
    scheduler = tiny_pipeline("pixart").scheduler
    accelerate_pipeline(model, "balanced", scheduler=scheduler)
    twin = copy.deepcopy(model)
    assert is_accelerated(model)
    assert not is_accelerated(twin)
    assert not is_accelerated(pickle.loads(pickle.dumps(model)))
    before = snapshot(tiny_model("pixart"))
    remove_acceleration(model)
    assert snapshot(model).keys() == before.keys()


def test_a_deep_copied_pipeline_is_a_plain_one() -> None:
    pipe = accelerate_pipeline(tiny_pipeline("pixart"), "balanced")
    plain = _run(tiny_pipeline("pixart"), "pixart")
    twin = copy.deepcopy(pipe)
    assert not is_accelerated(twin)
    assert torch.equal(_run(twin, "pixart"), plain)


def test_two_pipelines_may_share_a_scheduler() -> None:
    one, other = tiny_pipeline("pixart"), tiny_pipeline("pixart")
    other.scheduler = one.scheduler
    plain = _run(one, "pixart")
    before = snapshot(one)
    accelerate_pipeline(one, "balanced")
    fast = _run(one, "pixart")
    accelerate_pipeline(other, "balanced")
    with warnings.catch_warnings():
        warnings.simplefilter("error", AccelerationWarning)
        assert torch.equal(_run(other, "pixart"), fast)
        assert torch.equal(_run(one, "pixart"), fast)
        remove_acceleration(one)  # the one that was applied first
        assert torch.equal(_run(one, "pixart"), plain)
        assert torch.equal(_run(other, "pixart"), fast)
    remove_acceleration(other)
    assert_same(before, snapshot(one))


def test_two_pipelines_may_not_share_an_accelerated_denoiser() -> None:
    one, other = tiny_pipeline("pixart"), tiny_pipeline("pixart")
    other.transformer = one.transformer
    accelerate_pipeline(one, "balanced")
    before = snapshot(other)
    with pytest.raises(ConfigError, match="'transformer' is already accelerated through another pipeline"):
        accelerate_pipeline(other, "balanced")
    assert_same(before, snapshot(other))


def test_summary_without_acceleration() -> None:
    with pytest.raises(ConfigError, match="not accelerated"):
        summary(tiny_pipeline("pixart"))
