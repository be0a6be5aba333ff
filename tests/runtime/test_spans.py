"""Blocks kept as one: what the rows say, what answers, what native code adds between blocks, and what is refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import tiny_call, tiny_pipeline

from dit_accel import CompileConfig, accelerate_pipeline
from dit_accel.errors import ConfigError, UnsupportedModelError
from dit_accel.runtime.call import Call
from dit_accel.runtime.denoiser import DenoiserRuntime
from dit_accel.runtime.probe import hooked, look_ahead
from dit_accel.runtime.spans import Span
from dit_accel.schedules.lowering import COMPUTE, REUSE, SKIP, STORE, Row, rows_of
from dit_accel.session.session import session_of

STEPS = 6


class EveryThird:
    """A row source: the span is computed at every third step and answered at the others."""

    def __init__(self, runtime: DenoiserRuntime, span: Span) -> None:
        parents = rows_of(runtime.graph, ()).parents
        self.pair = span.row(parents, reused=False), span.row(parents, reused=True)
        self.set = rows_of(runtime.graph, self.pair)

    def rows(self, *_: Any) -> Any:
        return self.set

    def begin(self, call: Call, rows: Any) -> None:
        pass

    def choose(self, call: Call) -> Row:
        return self.pair[call.step % 3 != 0]


def accelerated(name: str, first: int, last: int, streams: tuple[str, ...]) -> tuple[Any, DenoiserRuntime]:
    """A tiny pipeline whose blocks from ``first`` to ``last`` are kept as one."""
    pipe = accelerate_pipeline(tiny_pipeline(name), CompileConfig(fullgraph=False))
    runtime = session_of(pipe).runtimes[0]
    runtime.compiler = None
    blocks = [p for p, site in enumerate(runtime.target.layout.sites) if site.info.kind == "block"]
    span = Span(positions=tuple(blocks[first : last + 1]), streams=streams)
    runtime.decide(EveryThird(runtime, span), by="test")
    runtime.span(span, by="test")
    return pipe, runtime


def run(pipe: Any, name: str) -> torch.Tensor:
    return pipe(**tiny_call(name, num_inference_steps=STEPS))[0]


def inputs_and_outputs(runtime: DenoiserRuntime, before: str, after: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The first argument that each of two modules is given, a pair a call, as they come."""
    pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
    held: list[torch.Tensor] = []
    denoiser = runtime.target.denoiser
    denoiser.get_submodule(before).register_forward_hook(lambda m, a, out: held.append(out))
    denoiser.get_submodule(after).register_forward_pre_hook(lambda m, a: pairs.append((held.pop(), a[0])))
    return pairs


def test_rows() -> None:
    _, runtime = accelerated("flux", 1, 2, ("hidden_states",))
    source: Any = runtime.source
    ids = [site.id for site in runtime.graph]
    computed, answered = (dict(zip(ids, row.actions, strict=True)) for row in source.pair)
    blocks = [site.id for site in runtime.graph if site.kind == "block"]
    assert [computed[block] for block in blocks[:4]] == [COMPUTE, STORE, COMPUTE, COMPUTE]
    assert [answered[block] for block in blocks[:4]] == [COMPUTE, REUSE, SKIP, COMPUTE]
    inside = [site.id for site in runtime.graph if site.parent in blocks[1:3]]
    assert {answered[site] for site in inside} == {SKIP} and {computed[site] for site in inside} == {COMPUTE}
    runtime.ensure_wrapped(source.set)
    assert runtime.num_wrapped == 2, "nothing inside a skipped block is wrapped"


@pytest.mark.parametrize(("first", "last"), [(0, 0), (0, 2), (1, 2)])
def test_answers_with_what_the_span_added_last(first: int, last: int) -> None:
    pipe, runtime = accelerated("pixart", first, last, ("hidden_states",))
    blocks = runtime.target.denoiser.transformer_blocks
    entered: list[torch.Tensor] = []
    left: list[torch.Tensor] = []
    blocks[first].register_forward_pre_hook(lambda m, a: entered.append(a[0]))
    blocks[last].register_forward_hook(lambda m, a, out: left.append(out))
    run(pipe, "pixart")
    assert len(entered) == len(left) == STEPS
    for step in range(STEPS):
        since = step - step % 3
        kept = left[since] - entered[since]
        assert step % 3 == 0 or torch.equal(left[step], entered[step] + kept)
    stats = runtime.stats
    assert stats.actual_reuse == stats.planned_reuse == 4
    assert stats.actual_computed == stats.planned_computed == 2 * (last - first + 1)
    assert runtime.frame.entered == []


def test_streams_that_are_not_kept_are_handed_on() -> None:
    pipe, runtime = accelerated("flux", 0, 1, ("hidden_states",))
    both = inputs_and_outputs(runtime, "context_embedder", "norm_out")
    given: list[torch.Tensor] = []
    runtime.target.denoiser.single_transformer_blocks[0].register_forward_pre_hook(
        lambda m, a, kw: given.append(kw["encoder_hidden_states"] if "encoder_hidden_states" in kw else a[1]),
        with_kwargs=True,
    )
    texts: list[torch.Tensor] = []
    runtime.target.denoiser.context_embedder.register_forward_hook(lambda m, a, out: texts.append(out))
    run(pipe, "flux")
    assert len(both) == len(given) == STEPS
    for step in range(STEPS):
        assert torch.equal(given[step], texts[step]) == (step % 3 != 0)


def test_what_native_code_adds_between_blocks_counts_once() -> None:
    """ControlNet: its residuals are added after every block, skipped or not."""
    pipe, runtime = accelerated("flux", 0, 99, ("hidden_states",))
    denoiser = runtime.target.denoiser
    generator = torch.Generator().manual_seed(2)
    sample = [torch.randn(1, 16, denoiser.inner_dim, generator=generator) for _ in range(2)]

    def control(call: Call, inner: Callable[[Call], Any]) -> Any:
        call.kwargs["controlnet_block_samples"] = sample[:1]
        call.kwargs["controlnet_single_block_samples"] = sample[1:]
        return inner(call)

    runtime.around(control, by="test")
    pairs = inputs_and_outputs(runtime, "x_embedder", "norm_out")
    run(pipe, "flux")
    for step, (entered, left) in enumerate(pairs):
        first_in, first_out = pairs[step - step % 3]
        # The sample of the last block comes after the span, and is added natively at every step.
        torch.testing.assert_close(left, entered + (first_out - first_in), rtol=1e-4, atol=1e-4)


def test_blocks_that_are_no_single_stack_are_refused() -> None:
    pipe, _ = accelerated("lumina2", 0, 99, ("hidden_states",))
    with pytest.raises(UnsupportedModelError, match=r"has the shape .* no single stack; register a family"):
        run(pipe, "lumina2")


def test_one_pass_keeps_spans() -> None:
    _, runtime = accelerated("pixart", 0, 1, ("hidden_states",))
    with pytest.raises(ConfigError, match="'test' and 'other' cannot be combined"):
        runtime.span(Span(positions=(1,), streams=("hidden_states",)), by="other")


def test_a_look_at_a_call_leaves_no_trace() -> None:
    pipe, runtime = accelerated("pixart", 0, 2, ("hidden_states",))
    expected = run(pipe, "pixart")
    computed, reused = runtime.stats.actual_computed, runtime.stats.actual_reuse
    attention = runtime.target.denoiser.transformer_blocks[0].attn1
    looked: list[torch.Tensor] = []
    read: list[torch.Tensor] = []
    choose = runtime.source.choose

    def look_first(call: Call) -> Row:
        looked.append(look_ahead(runtime, call, attention)[0][0])
        return choose(call)

    runtime.source.choose = look_first
    assert torch.equal(run(pipe, "pixart"), expected)
    assert (runtime.stats.actual_computed, runtime.stats.actual_reuse) == (computed, reused)
    assert not attention._forward_pre_hooks
    attention.register_forward_pre_hook(lambda m, a: read.append(a[0]))
    looked.clear()
    run(pipe, "pixart")
    assert len(looked) == STEPS and len(read) == STEPS + 2, "each look passes the hooks that were there before"
    assert all(any(torch.equal(a, b) for b in read) for a in looked)


def test_a_look_that_reaches_nothing_says_so() -> None:
    pipe, runtime = accelerated("pixart", 0, 2, ("hidden_states",))
    stray = torch.nn.Linear(1, 1)

    def look(call: Call, inner: Callable[[Call], Any]) -> Any:
        return look_ahead(runtime, call, stray)

    runtime.around(look, by="test")
    with pytest.raises(UnsupportedModelError, match="did not use the Linear looked for"):
        run(pipe, "pixart")
    assert not stray._forward_pre_hooks


def test_hooks_inside_a_denoiser_are_found() -> None:
    from accelerate.hooks import ModelHook, add_hook_to_module

    pipe = tiny_pipeline("flux")
    run(pipe, "flux")  # diffusers leaves an empty registry of hooks
    add_hook_to_module(pipe.transformer, ModelHook())
    assert hooked(pipe.transformer) == []
    add_hook_to_module(pipe.transformer.proj_out, ModelHook())
    assert hooked(pipe.transformer) == ["proj_out"]
