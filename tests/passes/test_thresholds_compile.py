"""TeaCache with the compiler: two rows, two graphs. FirstBlockCache: refused, and never wrong."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from refusals import refused
from tiny import tiny_call, tiny_pipeline

from dit_accel import CompileConfig, FirstBlockCacheConfig, TeaCacheConfig, accelerate_pipeline, remove_acceleration
from dit_accel.errors import AccelerationWarning, ConfigError, PlanMismatchError
from dit_accel.session.session import session_of

TEA = TeaCacheConfig(threshold=0.25, coefficients=(0.1,))
FIRST = FirstBlockCacheConfig(threshold=0.6)


class Recorder:
    """A compiler backend that keeps every graph it is given and runs it as it is."""

    def __init__(self) -> None:
        self.graphs: list[torch.fx.GraphModule] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        self.graphs.append(graph)
        return graph.forward

    def attentions(self) -> list[int]:
        """How many attentions each graph computes, most first."""
        found = []
        for graph in self.graphs:
            graph.graph.eliminate_dead_code()
            found.append(sum("scaled_dot_product" in str(node.target) for node in graph.graph.nodes))
        return sorted(found, reverse=True)


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch._dynamo.reset()


def run(pipe: Any, name: str) -> torch.Tensor:
    return pipe(**tiny_call(name, num_inference_steps=8))[0]


@pytest.mark.parametrize("name", ["pixart", "flux", "sd3", "wan"])
def test_two_rows_are_two_whole_graphs(name: str) -> None:
    pipe = tiny_pipeline(name)
    plain = run(pipe, name)
    accelerate_pipeline(pipe, TEA, strict=True)
    eager = run(pipe, name)
    recorder = Recorder()
    pipe.transformer.compile(backend=recorder, fullgraph=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled, again = run(pipe, name), run(pipe, name)
    assert len(recorder.graphs) == 2
    assert recorder.attentions()[0] > 0 == recorder.attentions()[1]
    assert torch.equal(compiled, eager) and torch.equal(again, eager)
    stats = session_of(pipe).runtimes[0].stats
    assert stats.actual_reuse is None and stats.planned_reuse > 0, "compiled rows are not counted"
    remove_acceleration(pipe)
    assert torch.equal(run(pipe, name), plain)


def test_a_kept_graph_holds_no_stream_that_nobody_needs() -> None:
    """What entered the span is of that call only: it must not leave the graph beside what the span added."""
    recorder = Recorder()
    pipe = accelerate_pipeline(tiny_pipeline("pixart"), TEA)
    pipe.transformer.compile(backend=recorder, fullgraph=True)
    run(pipe, "pixart")
    outputs = [len(next(n for n in graph.graph.nodes if n.op == "output").args[0]) for graph in recorder.graphs]
    assert outputs == [2, 1], "the prediction and what is kept; then the prediction alone"
    assert session_of(pipe).runtimes[0].frame.entered == []


@pytest.mark.slow
def test_with_the_compile_pass() -> None:
    pipe = accelerate_pipeline(tiny_pipeline("pixart"), TEA)
    eager = run(pipe, "pixart")
    accelerate_pipeline(pipe, [CompileConfig(), TEA], strict=True)
    compiled = run(pipe, "pixart")
    assert float((compiled - eager).norm() / eager.norm()) < 1e-3


@pytest.mark.parametrize("plan", [TEA, FIRST], ids=["teacache", "first_block_cache"])
def test_blocks_compiled_one_by_one(plan: Any) -> None:
    pipe = accelerate_pipeline(tiny_pipeline("flux"), plan, strict=True)
    eager = run(pipe, "flux")
    pipe.transformer.compile_repeated_blocks(backend="eager")
    assert torch.equal(run(pipe, "flux"), eager)
    assert torch.equal(run(pipe, "flux"), eager)
    assert session_of(pipe).runtimes[0].effects()[plan.type_name].planned_frac > 0


def test_first_block_cache_is_refused_beside_compile() -> None:
    refused([FIRST, CompileConfig()], ConfigError, "first_block_cache", "compile", "in the middle of each call")


@pytest.mark.parametrize("how", ["compiled before", "wrapped before", "compiled after", "wrapped after"])
def test_first_block_cache_stays_eager_whoever_compiles(how: str) -> None:
    eager = run(accelerate_pipeline(tiny_pipeline("pixart"), FIRST), "pixart")
    pipe: Any = tiny_pipeline("pixart")

    def compile_it() -> None:
        if how.startswith("compiled"):
            pipe.transformer.compile(backend="eager")
        else:
            pipe.transformer = torch.compile(pipe.transformer, backend="eager")

    with pytest.warns(AccelerationWarning, match="uncompiled"):
        if how.endswith("before"):
            compile_it()
            accelerate_pipeline(pipe, FIRST)
        else:
            accelerate_pipeline(pipe, FIRST)
            compile_it()
        assert torch.equal(run(pipe, "pixart"), eager)
    assert session_of(pipe).runtimes[0].effects()["first_block_cache"].actual_frac > 0


def test_first_block_cache_refuses_a_compiled_denoiser_when_strict() -> None:
    pipe = tiny_pipeline("pixart")
    pipe.transformer.compile(backend="eager")
    users_own = pipe.transformer._compiled_call_impl
    with pytest.raises(PlanMismatchError, match="stays uncompiled: 'first_block_cache' decides"):
        accelerate_pipeline(pipe, FIRST, strict=True)
    assert pipe.transformer._compiled_call_impl is users_own and "forward" not in vars(pipe.transformer)
