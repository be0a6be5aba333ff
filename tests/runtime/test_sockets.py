"""Any technique can live in the runtime: passes without a schedule are checked, counted and undone like any other."""

import dataclasses
import warnings
from typing import Any

import pytest
import torch
from reference import config, one_call, tensor_of
from snapshot import assert_same, snapshot
from tiny import tiny_call, tiny_pipeline
from toy_passes import ScaleConfig, Scaled, registered, scale_pass

from dit_accel import AccelerationPlan, accelerate_pipeline, accelerated, remove_acceleration, summary
from dit_accel.errors import AccelerationWarning, ConfigError, IrreversibleError, PlanMismatchError
from dit_accel.plan.conditions import Conditions
from dit_accel.runtime.call import Effect
from dit_accel.runtime.denoiser import DenoiserRuntime
from dit_accel.schedules import GeneratorSpec, Schedule
from dit_accel.session.session import session_of

EVERY_2 = config(GeneratorSpec("every_n", n=2))


def _run(pipe: Any, name: str = "pixart", **overrides: Any) -> torch.Tensor:
    return tensor_of(pipe(**tiny_call(name, **overrides)))


def _runtime(pipe: Any) -> DenoiserRuntime:
    return session_of(pipe).runtimes[0]


def test_a_module_that_a_pass_replaced_is_put_back() -> None:
    pipe = tiny_pipeline("pixart")
    before, plain = snapshot(pipe), _run(pipe)
    with registered(scale_pass()):
        accelerate_pipeline(pipe, ScaleConfig())
    assert isinstance(pipe.transformer.proj_out, Scaled)
    assert not torch.equal(_run(pipe), plain)
    remove_acceleration(pipe)
    assert torch.equal(_run(pipe), plain)
    assert_same(before, snapshot(pipe))


def test_a_plan_without_a_schedule_is_checked_against_the_run() -> None:
    plan = AccelerationPlan(passes=(ScaleConfig(),), conditions=Conditions(num_steps=20))
    with registered(scale_pass()):
        pipe = accelerate_pipeline(tiny_pipeline("pixart"), plan, strict=True)
        with pytest.raises(PlanMismatchError, match="denoiser evaluations: 6 instead of 20"):
            _run(pipe)
        with pytest.warns(AccelerationWarning, match="denoiser evaluations: 6 instead of 20"):
            _run(accelerate_pipeline(tiny_pipeline("pixart"), plan))


def test_a_plan_without_a_schedule_is_summed_up() -> None:
    with registered(scale_pass()):
        pipe = accelerate_pipeline(tiny_pipeline("pixart"), ScaleConfig())
        assert "no run yet" in str(summary(pipe))
        _run(pipe)
    (denoiser,) = summary(pipe).denoisers
    assert denoiser.last_run is not None and denoiser.last_run.calls == 6
    assert denoiser.effects == {"scale": Effect(what="outputs scaled", planned_frac=1.0, actual_frac=1.0)}
    text = str(summary(pipe))
    assert "scale: outputs scaled: 100% (100% planned)" in text and "last run: 6 calls" in text


def test_what_a_pass_did_not_do_is_warned_of() -> None:
    lazy = scale_pass(effect=lambda runtime, config: Effect(what="x", planned_frac=1, actual_frac=0, shortfall="nope"))
    with registered(lazy):
        pipe = accelerate_pipeline(tiny_pipeline("pixart"), ScaleConfig())
        with pytest.warns(AccelerationWarning, match="nope"):
            _run(pipe)
        pipe = accelerate_pipeline(pipe, ScaleConfig(), strict=True)
        with pytest.raises(PlanMismatchError, match="nope"):
            _run(pipe)


@pytest.mark.parametrize(
    ("name", "made_for", "other"),
    [
        ("flux", {"height": 64, "width": 64}, {"height": 32, "width": 128}),
        ("qwen_image", {"height": 64, "width": 64}, {"height": 32, "width": 128}),
        ("ltx", {"height": 64, "width": 64}, {"height": 32, "width": 128}),
    ],
)
def test_packed_latents_tell_their_grid(name: str, made_for: dict[str, int], other: dict[str, int]) -> None:
    """Both sizes have as many tokens."""
    pipe = accelerate_pipeline(tiny_pipeline(name), EVERY_2)
    _run(pipe, name, **made_for)
    found = summary(pipe).denoisers[0].last_run.conditions
    assert found.token_grid is not None and found.token_grid[1] == found.token_grid[2]
    plan = AccelerationPlan(passes=(EVERY_2,), conditions=found)
    accelerate_pipeline(pipe, plan, strict=True)
    _run(pipe, name, **made_for)
    with pytest.raises(PlanMismatchError, match=r"the token grid \(frames, rows, columns\)"):
        _run(pipe, name, **other)


def test_text_of_another_length_is_no_other_run() -> None:
    pipe = accelerate_pipeline(tiny_pipeline("flux"), EVERY_2)
    _run(pipe, "flux")
    found = summary(pipe).denoisers[0].last_run.conditions
    assert found.text_span == (0, 6)
    accelerate_pipeline(pipe, AccelerationPlan(passes=(EVERY_2,), conditions=found), strict=True)
    longer = torch.randn(1, 9, 12, generator=torch.Generator().manual_seed(1))
    _run(pipe, "flux", prompt_embeds=longer)


def test_a_second_pass_that_decides_the_rows_is_refused() -> None:
    """It used to erase the first one's schedule without a word."""

    def steal(runtime: DenoiserRuntime, config: ScaleConfig) -> None:
        runtime.decide(runtime.source, by="scale")

    pipe = tiny_pipeline("pixart")
    before = snapshot(pipe)
    words = "'static_cache' and 'scale' cannot be combined on 'transformer'"
    with registered(scale_pass(apply=steal, phase="calls")), pytest.raises(ConfigError, match=words):
        accelerate_pipeline(pipe, [EVERY_2, ScaleConfig()])
    assert_same(before, snapshot(pipe))


def test_wrapping_a_site_anew_leaves_what_another_pass_did_to_it() -> None:
    marker = object()

    def mark(runtime: DenoiserRuntime, config: ScaleConfig) -> None:
        runtime.ledger.set(runtime.target.denoiser.transformer_blocks[0].attn1, "marker", marker, by="scale")

    with registered(scale_pass(apply=mark)):
        pipe = accelerate_pipeline(tiny_pipeline("pixart"), [ScaleConfig(), EVERY_2])
    attention = pipe.transformer.transformer_blocks[0].attn1
    del attention.forward  # someone throws out our wrapper; the next run puts it back
    _run(pipe)
    assert "forward" in vars(attention) and attention.marker is marker


def test_a_plan_is_checked_against_the_plain_model() -> None:
    """Not against what the plan that it replaces made of it."""
    seen = []

    def look(target: Any, config: ScaleConfig) -> list[str]:
        seen.append(type(target.denoiser.proj_out))
        return ["not today"] if len(seen) == 2 else []

    pipe = tiny_pipeline("pixart")
    with registered(scale_pass(obstacles=look)):
        accelerate_pipeline(pipe, ScaleConfig())
        changed = _run(pipe)
        with pytest.raises(Exception, match="not today"):
            accelerate_pipeline(pipe, ScaleConfig(factor=3.0))
        assert seen == [torch.nn.Linear, torch.nn.Linear]
        assert torch.equal(_run(pipe), changed), "what was applied before is back"


def test_when_a_plan_is_refused_the_last_run_is_not_forgotten() -> None:
    pipe = accelerate_pipeline(tiny_pipeline("pixart"), EVERY_2)
    _run(pipe)
    told = str(summary(pipe))
    with pytest.raises(ConfigError):
        accelerate_pipeline(pipe, "turbi")
    assert str(summary(pipe)) == told


def test_a_pass_that_cannot_be_undone_is_refused_where_it_would_have_to_be() -> None:
    pipe = tiny_pipeline("pixart")
    before = snapshot(pipe)
    with registered(scale_pass(reversible=False)):
        words = "'scale' cannot be undone on a live pipeline"
        with pytest.raises(IrreversibleError, match=words), accelerated(pipe, ScaleConfig()):
            raise AssertionError("it must not come to this")
        assert_same(before, snapshot(pipe))
        accelerate_pipeline(pipe, ScaleConfig())
        for attempt in (lambda: remove_acceleration(pipe), lambda: accelerate_pipeline(pipe, "balanced")):
            with pytest.raises(IrreversibleError, match="'scale' cannot be undone"):
                attempt()
            assert isinstance(pipe.transformer.proj_out, Scaled)


def test_every_denoiser_of_a_pipeline_is_compared() -> None:
    """All of Wan 2.2's second expert replaced: nobody used to say a word."""
    pipe = tiny_pipeline("wan22")
    accelerate_pipeline(pipe, "balanced")
    plan = session_of(pipe).plan
    assert len(plan.fingerprints) == 2
    remove_acceleration(pipe)
    again = AccelerationPlan(passes=plan.passes, fingerprints=plan.fingerprints)
    accelerate_pipeline(pipe, again, strict=True)
    other = tiny_pipeline("wan22")
    narrow = {**dict(other.transformer_2.config), "num_layers": 3}
    other.register_modules(transformer_2=type(other.transformer_2)(**narrow).eval())
    with pytest.raises(PlanMismatchError, match="transformer_2: the plan is for another WanTransformer3DModel"):
        accelerate_pipeline(other, again)
    first_only = dataclasses.replace(again, fingerprints=plan.fingerprints[:1])
    with pytest.warns(AccelerationWarning, match="says nothing of 'transformer_2'"):
        accelerate_pipeline(tiny_pipeline("wan22"), first_only)
    with pytest.raises(PlanMismatchError, match="for 2 denoisers, this pipeline has 1"):
        accelerate_pipeline(tiny_pipeline("wan"), again)


class Forecast:
    """Goes on as between the last two values."""

    depth = 2

    def numbers(self, call: Any, steps: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
        ahead = 0.0 if len(steps) < 2 else (call.step - steps[0]) / (steps[0] - steps[1])
        return (torch.tensor(ahead),)

    def recall(self, values: tuple[Any, ...], numbers: tuple[torch.Tensor, ...]) -> Any:
        newest, oldest = values[0], values[-1]
        return newest + numbers[0] * (newest - oldest)


FORECAST_STEPS = 8
FORECAST_ROWS = {"blocks.0.ff": "11011010", "blocks.1.attn1": "10110101"}


def forecast_pass() -> Any:
    def apply(runtime: DenoiserRuntime, config: ScaleConfig) -> None:
        for site in FORECAST_ROWS:
            runtime.keep(site, lambda site: Forecast(), by="scale")

    return scale_pass(apply=apply)


def forecast_reference(pipe: Any) -> torch.Tensor:
    """By forward hooks that overwrite what was computed; shares no code with the runtime."""
    kept: dict[str, list[tuple[int, torch.Tensor]]] = {site: [] for site in FORECAST_ROWS}
    calls = [0]
    handles = []
    for site, bits in FORECAST_ROWS.items():
        module = pipe.transformer.get_submodule(site.replace("blocks", "transformer_blocks"))

        def hook(module: Any, args: Any, output: torch.Tensor, site: str = site, bits: str = bits) -> Any:
            step, _ = one_call(calls[0])
            if bits[step] == "1":
                kept[site].insert(0, (step, output.clone()))
                return output
            (newest, a), *older = kept[site]
            if not older:
                return a
            oldest, b = older[0]
            return a + (step - newest) / (newest - oldest) * (a - b)

        handles.append(module.register_forward_hook(hook))

    def count(*_: Any) -> None:
        calls[0] += 1

    handles.append(pipe.transformer.register_forward_hook(count))
    output = _run(pipe, num_inference_steps=FORECAST_STEPS)
    for handle in handles:
        handle.remove()
    return output


def test_a_keeper_may_forecast_from_several_values() -> None:
    pipe = tiny_pipeline("pixart")
    plain, expected = _run(pipe, num_inference_steps=FORECAST_STEPS), forecast_reference(pipe)
    plan = [config(Schedule(FORECAST_STEPS, FORECAST_ROWS), invariants=False), ScaleConfig()]
    with registered(forecast_pass()):
        accelerate_pipeline(pipe, plan, strict=True)
    found = _run(pipe, num_inference_steps=FORECAST_STEPS)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, plain, atol=1e-3)
    assert torch.equal(_run(pipe, num_inference_steps=FORECAST_STEPS), found), "nothing leaks from run to run"
    runtime = _runtime(pipe)
    assert (
        runtime.stats.actual_reuse == runtime.stats.planned_reuse == sum(b.count("0") for b in FORECAST_ROWS.values())
    )


def test_a_forecast_is_compiled_once_a_row() -> None:
    plan = [config(Schedule(FORECAST_STEPS, FORECAST_ROWS), invariants=False), ScaleConfig()]
    with registered(forecast_pass()):
        pipe = accelerate_pipeline(tiny_pipeline("pixart"), plan, strict=True)
    expected = _run(pipe, num_inference_steps=FORECAST_STEPS)
    pipe.transformer.compile(backend="eager", fullgraph=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled = _run(pipe, num_inference_steps=FORECAST_STEPS)
        again = _run(pipe, num_inference_steps=FORECAST_STEPS)
    torch.testing.assert_close(compiled, expected)
    torch.testing.assert_close(again, expected)


def test_two_passes_cannot_answer_for_one_site() -> None:
    pipe = tiny_pipeline("pixart")

    def both(runtime: DenoiserRuntime, config: ScaleConfig) -> None:
        runtime.keep("blocks.*.ff", lambda site: Forecast(), by="one")
        runtime.keep("blocks.0.*", lambda site: Forecast(), by="other")

    words = r"'one' and 'other' cannot be combined .*answers for 'blocks\.0\.ff'"
    with registered(scale_pass(apply=both)), pytest.raises(ConfigError, match=words):
        accelerate_pipeline(pipe, ScaleConfig())


def test_a_pass_may_change_what_the_denoiser_is_given_and_hears_of_every_run() -> None:
    runs, branches = [], []

    def apply(runtime: DenoiserRuntime, config: ScaleConfig) -> None:
        def half(call: Any, inner: Any) -> Any:
            branches.append(call.branch)
            latents, *rest = call.args
            call.args = (latents * 0.5, *rest)
            return inner(call)

        runtime.around(half, by="scale")
        runtime.each_run(runs.append, by="scale")

    pipe = tiny_pipeline("pixart")
    inputs: list[torch.Tensor] = []
    handle = pipe.transformer.pos_embed.register_forward_pre_hook(lambda _, args: inputs.append(args[0].clone()))
    _run(pipe)
    first = inputs[0]
    inputs.clear()
    with registered(scale_pass(apply=apply)):
        accelerate_pipeline(pipe, ScaleConfig())
    _run(pipe)
    handle.remove()
    torch.testing.assert_close(inputs[0], first * 0.5)
    (run,) = runs
    assert run.num_steps == 6 and len(run.timesteps) == 6 and run.grid.size == (1, 4, 4)
    assert len(set(branches)) == 1


def test_warnings_point_at_the_users_own_line() -> None:
    pipe = accelerate_pipeline(tiny_pipeline("pixart"), EVERY_2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AccelerationWarning)
        remove_acceleration(pipe)
        remove_acceleration(pipe)
        _run(accelerate_pipeline(pipe, EVERY_2), num_inference_steps=3)
    ours = [warning for warning in caught if warning.category is AccelerationWarning]
    assert ours and {warning.filename for warning in ours} == {__file__}
