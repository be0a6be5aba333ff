"""Two passes that the library knows nothing of: one replaces modules, one answers calls."""

import copy
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import diffusers
import every_other
import fake_int8
import pytest
import torch
from every_other import EveryOtherConfig
from fake_int8 import FakeInt8Config, quantised
from reference import replayed
from snapshot import assert_same, snapshot
from tiny import tiny_call, tiny_pipeline
from torch import nn

from dit_accel import (
    AccelerationPlan,
    CompileConfig,
    FirstBlockCacheConfig,
    GeneratorSpec,
    Schedule,
    StaticCacheConfig,
    TeaCacheConfig,
    accelerate_pipeline,
    remove_acceleration,
    summary,
)
from dit_accel.errors import ConfigError
from dit_accel.passes.base import PASSES, register_pass
from dit_accel.plan.config import CONFIGS
from dit_accel.plan.plan import PLAN_FILE
from dit_accel.session.session import session_of

STEPS = 8
EVERY_3 = StaticCacheConfig(schedule=GeneratorSpec("every_n", n=3), invariants=False)
TEA = TeaCacheConfig(threshold=0.25, coefficients=(0.1,))
FIRST = FirstBlockCacheConfig(threshold=0.6)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    torch._dynamo.reset()
    with (
        PASSES.temporarily("fake_int8", fake_int8.PASS),
        CONFIGS.temporarily("fake_int8", FakeInt8Config),
        PASSES.temporarily("every_other", every_other.PASS),
        CONFIGS.temporarily("every_other", EveryOtherConfig),
    ):
        yield


def run(pipe: Any, name: str, **more: Any) -> torch.Tensor:
    first = pipe(**tiny_call(name, **{"num_inference_steps": STEPS, **more}))[0]
    return first if isinstance(first, torch.Tensor) else torch.stack(list(first))


def effects(pipe: Any) -> Any:
    return summary(pipe).denoisers[0].effects


def rounded(pipe: Any) -> Any:
    """The pipeline with weights that int8 can hold, by plain assignment."""
    for module in pipe.transformer.modules():
        if type(module) is nn.Linear:
            whole, scale = quantised(module.weight.detach())
            module.weight.data = whole.to(module.weight.dtype) * scale
    return pipe


def locate(name: str) -> Callable[[int], Any]:
    per_step = 2 if name == "wan" else 1
    return lambda call: (call // per_step, call % per_step)


@contextmanager
def answered_by_hand(pipe: Any, name: str) -> Iterator[None]:
    """Odd steps get the last output of their branch; counts for itself."""
    native, numbers, last = pipe.transformer.forward, itertools.count(), {}

    def forward(*args: Any, **kwargs: Any) -> Any:
        step, branch = locate(name)(next(numbers))
        if step % 2 == 0:
            last[branch] = native(*args, **kwargs)
        return last[branch]

    pipe.transformer.forward = forward
    try:
        yield
    finally:
        del pipe.transformer.forward


def on_leaves(pipe: Any, bits: str) -> Schedule:
    """One row of bits for every attention and feed-forward."""
    runtime = session_of(accelerate_pipeline(copy.deepcopy(pipe), "lossless")).runtimes[0]
    kinds = ("self_attn", "cross_attn", "joint_attn", "single_attn", "ff", "ff_context", "proj_mlp", "proj_out")
    return Schedule(STEPS, {site.id: bits for site in runtime.graph.select(kinds=kinds)})


def assert_compiles(pipe: Any, name: str, expected: torch.Tensor, *, rows: int) -> None:
    """Whole graphs, one for each row that calls the denoiser, and never a second one."""
    graphs: list[Any] = []
    pipe.transformer.compile(backend=lambda graph, inputs: graphs.append(graph) or graph.forward, fullgraph=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert torch.equal(run(pipe, name), expected)
        assert torch.equal(run(pipe, name), expected)
    assert len(graphs) == rows


@pytest.mark.parametrize("name", ["pixart", "flux", "wan"])
def test_replaced_modules(name: str) -> None:
    pipe = tiny_pipeline(name)
    plain, expected = run(pipe, name), run(rounded(tiny_pipeline(name)), name)
    before, keys = snapshot(pipe), list(pipe.transformer.state_dict())
    accelerate_pipeline(pipe, FakeInt8Config(), strict=True)
    assert torch.equal(run(pipe, name), expected)
    assert not torch.equal(expected, plain)
    said = effects(pipe)["fake_int8"]
    assert 0.4 < said.actual_frac == said.planned_frac < 0.75
    remove_acceleration(pipe)
    assert_same(before, snapshot(pipe))
    assert list(pipe.transformer.state_dict()) == keys
    assert torch.equal(run(pipe, name), plain)


@pytest.mark.parametrize("name", ["pixart", "flux", "wan"])
def test_replaced_modules_are_kept_by_a_schedule(name: str) -> None:
    """Some sites are the very layers that are replaced (FLUX's proj_mlp and proj_out)."""
    reference, pipe = rounded(tiny_pipeline(name)), tiny_pipeline(name)
    schedule = on_leaves(pipe, "10010010")
    with replayed(reference.transformer, schedule, locate(name)):
        expected = run(reference, name)
    plain, before = run(pipe, name), snapshot(pipe)
    accelerate_pipeline(pipe, [StaticCacheConfig(schedule=schedule, invariants=False), FakeInt8Config()], strict=True)
    assert torch.equal(run(pipe, name), expected)
    assert set(effects(pipe)) == {"fake_int8", "static_cache"}
    if name == "pixart":
        assert_compiles(pipe, name, expected, rows=2)
    remove_acceleration(pipe)
    assert_same(before, snapshot(pipe))
    assert torch.equal(run(pipe, name), plain)


@pytest.mark.parametrize("plan", [TEA, FIRST], ids=["teacache", "first_block_cache"])
def test_replaced_modules_and_thresholds(plan: Any) -> None:
    expected = run(accelerate_pipeline(rounded(tiny_pipeline("pixart")), plan), "pixart")
    pipe = accelerate_pipeline(tiny_pipeline("pixart"), [plan, FakeInt8Config()], strict=True)
    assert torch.equal(run(pipe, "pixart"), expected)


@pytest.mark.parametrize("name", ["pixart", "flux", "wan"])
def test_answered_calls(name: str) -> None:
    pipe = tiny_pipeline(name)
    plain = run(pipe, name)
    before = snapshot(pipe)
    with answered_by_hand(pipe, name):
        expected = run(pipe, name)
    accelerate_pipeline(pipe, EveryOtherConfig(), strict=True)
    for _ in range(2):
        assert torch.equal(run(pipe, name), expected)
    assert not torch.equal(expected, plain)
    assert effects(pipe)["every_other"].actual_frac == 0.5
    assert summary(pipe).denoisers[0].last_run.restarts == {}
    remove_acceleration(pipe)
    assert_same(before, snapshot(pipe))
    assert torch.equal(run(pipe, name), plain)


@pytest.mark.parametrize("name", ["pixart", "flux", "wan"])
def test_answered_calls_and_a_schedule(name: str) -> None:
    """Steps 0, 3 and 6 were to be recomputed. Step 3 is answered, so step 4 is; of the steps that run, 2 reuses."""
    reference, pipe = tiny_pipeline(name), tiny_pipeline(name)
    with (
        replayed(reference.transformer, on_leaves(pipe, "10001010"), locate(name)),
        answered_by_hand(reference, name),
    ):
        expected = run(reference, name)
    schedule = StaticCacheConfig(schedule=on_leaves(pipe, "10010010"), invariants=False)
    plain, before = run(pipe, name), snapshot(pipe)
    accelerate_pipeline(pipe, [EveryOtherConfig(), schedule], strict=True)
    for _ in range(2):
        assert torch.equal(run(pipe, name), expected)
    last = summary(pipe).denoisers[0].last_run
    assert last.restarts == {} and last.actual_reuse == last.planned_reuse > 0
    if name == "pixart":
        assert_compiles(pipe, name, expected, rows=3)
    remove_acceleration(pipe)
    assert_same(before, snapshot(pipe))
    assert torch.equal(run(pipe, name), plain)


def test_answered_calls_and_teacache() -> None:
    """Of the steps that run, 0 and 6 are the first and the last; 2 and 4 are below the threshold."""
    pipe = accelerate_pipeline(tiny_pipeline("pixart"), [TEA, EveryOtherConfig()], strict=True)
    rows: list[Any] = []
    runtime = session_of(pipe).runtimes[0]
    runtime.around(lambda call, inner: (inner(call), rows.append((call.step, call.row.variant)))[0], order=1, by="x")
    made = run(pipe, "pixart")
    assert rows == [(0, "span computed"), (2, "span reused"), (4, "span reused"), (6, "span computed")]
    said = effects(pipe)
    assert said["every_other"].actual_frac == 0.5 and said["teacache"].actual_frac == 0.25
    assert summary(pipe).denoisers[0].last_run.restarts == {}
    assert torch.equal(run(pipe, "pixart"), made)


def test_answered_calls_and_first_block_cache() -> None:
    """The same as diffusers' own where only the even steps reach the denoiser."""
    reference, pipe = tiny_pipeline("flux"), tiny_pipeline("flux")
    reference.transformer.enable_cache(diffusers.FirstBlockCacheConfig(threshold=FIRST.threshold))
    with answered_by_hand(reference, "flux"):
        expected = run(reference, "flux")
    accelerate_pipeline(pipe, [FIRST, EveryOtherConfig()], strict=True)
    assert torch.equal(run(pipe, "flux"), expected)
    assert effects(pipe)["first_block_cache"].actual_frac > 0


def test_everything_at_once() -> None:
    passes = [CompileConfig(backend="eager"), EveryOtherConfig(), EVERY_3, FakeInt8Config()]
    pipe = tiny_pipeline("pixart")
    plain = run(pipe, "pixart")
    before = snapshot(pipe)
    expected = run(accelerate_pipeline(rounded(tiny_pipeline("pixart")), passes[1:3]), "pixart")
    accelerate_pipeline(pipe, passes, strict=True)
    assert torch.equal(run(pipe, "pixart"), expected)
    remove_acceleration(pipe)
    assert_same(before, snapshot(pipe))
    assert torch.equal(run(pipe, "pixart"), plain)


def test_a_run_that_ends_early_leaves_no_answer_to_the_next() -> None:
    pipe = accelerate_pipeline(tiny_pipeline("flux"), [EveryOtherConfig(), EVERY_3])
    other = {"prompt_embeds": torch.randn(1, 6, 12, generator=torch.Generator().manual_seed(31))}
    alone = run(pipe, "flux", **other)

    def stop(pipe: Any, step: int, *_: Any) -> Any:
        if step == 2:
            raise RuntimeError("stop")
        return {}

    with pytest.raises(RuntimeError, match="stop"):
        run(pipe, "flux", callback_on_step_end=stop)
    assert torch.equal(run(pipe, "flux", **other), alone)


def test_two_that_answer_cannot_be_combined() -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Twin(EveryOtherConfig):
        type_name = "twin"

    twin = fake_int8.Pass(
        config=Twin, summary="", phase="calls", claims=every_other.PASS.claims, example=Twin, apply=every_other.apply
    )
    with PASSES.temporarily("twin", twin), pytest.raises(ConfigError, match=r"'every_other' and 'twin'.*both want"):
        accelerate_pipeline(tiny_pipeline("pixart"), [EveryOtherConfig(), Twin()])


def test_a_plan_file_names_them(tmp_path: Any) -> None:
    plan = AccelerationPlan(name="mine", passes=(FakeInt8Config(leave="proj_out"), EveryOtherConfig(n=2), EVERY_3))
    plan.save_pretrained(tmp_path)
    read = AccelerationPlan.from_pretrained(tmp_path)
    assert read.passes == plan.passes
    made = [run(accelerate_pipeline(tiny_pipeline("pixart"), each), "pixart") for each in (plan, str(tmp_path))]
    assert torch.equal(*made)
    file = tmp_path / PLAN_FILE
    file.write_text(file.read_text().replace('"leave"', '"leafe"'))
    with pytest.raises(ConfigError, match=r"'fake_int8' has no setting 'leafe'. Did you mean 'leave'"):
        AccelerationPlan.from_pretrained(tmp_path)


def test_registration_takes_a_name_once() -> None:
    with pytest.raises(ConfigError, match="already registered"):
        register_pass(fake_int8.PASS)
