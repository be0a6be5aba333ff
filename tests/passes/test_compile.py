"""torch.compile: one whole graph per distinct row, dead code gone, the user's own compile calls adopted."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import tiny_call, tiny_pipeline

from dit_accel import (
    CompileConfig,
    GeneratorSpec,
    StaticCacheConfig,
    accelerate_pipeline,
    remove_acceleration,
    summary,
)
from dit_accel.errors import AccelerationWarning, ConfigError, UnsupportedModelError
from dit_accel.session.session import session_of

EVERY_3 = StaticCacheConfig(schedule=GeneratorSpec("every_n", n=3))


class Recorder:
    """A compiler backend that keeps every graph it is given and runs it as it is."""

    def __init__(self) -> None:
        self.graphs: list[torch.fx.GraphModule] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        self.graphs.append(graph)
        return graph.forward

    def live_calls(self) -> list[list[str]]:
        """Names of the functions in each graph that reach an output."""
        names = []
        for graph in self.graphs:
            graph.graph.eliminate_dead_code()
            names.append([str(n.target) for n in graph.graph.nodes if n.op == "call_function"])
        return names


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch._dynamo.reset()


def _relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Generated code sums in another order; a random network magnifies that, so compare norms."""
    return float((found - wanted).norm() / wanted.norm())


def _run(pipe: Any, name: str, **overrides: Any) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    return pipe(**tiny_call(name, **overrides))[0]


# Not Lumina 2 and HiDream: natively they read values, prompt lengths and expert routing.
@pytest.mark.parametrize(
    "name",
    [
        *("pixart", "sd3", "flux", "wan"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("sd", "flux2", "z_image", "chroma")),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("cogview4", "qwen_image_edit_plus")),
    ],
)
def test_one_graph_per_distinct_row(name: str) -> None:
    pipe = tiny_pipeline(name)
    accelerate_pipeline(pipe, EVERY_3, strict=True)
    eager = _run(pipe, name)
    recorder = Recorder()
    session_of(pipe).runtimes[0].target.denoiser.compile(backend=recorder, fullgraph=True)
    with torch._dynamo.config.patch(error_on_recompile=True):  # shapes are fixed: one graph, one set of guards
        compiled = _run(pipe, name)
        again = _run(pipe, name)

    rows = session_of(pipe).runtimes[0].source.program(6).distinct_actions
    assert len(recorder.graphs) == len(rows) == 3
    torch.testing.assert_close(compiled, eager, rtol=0, atol=0)
    torch.testing.assert_close(again, eager, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["pixart", "flux"])
def test_a_reused_row_holds_no_dead_norm_and_no_attention(name: str) -> None:
    pipe = tiny_pipeline(name)
    accelerate_pipeline(pipe, EVERY_3)
    recorder = Recorder()
    pipe.transformer.compile(backend=recorder, fullgraph=True)
    _run(pipe, name)
    full, reused = recorder.live_calls()[:2]

    def count(names: list[str], word: str) -> int:
        return sum(word in name for name in names)

    assert count(full, "layer_norm") > 1
    assert count(full, "scaled_dot_product_attention") >= 2
    assert count(reused, "layer_norm") == 1  # the one before the output projection
    assert count(reused, "scaled_dot_product_attention") == 0


def test_dead_norms_go_even_where_no_site_names_them() -> None:
    """The compiler removes a norm in front of a reused module by itself: auxiliaries only serve eager mode."""
    from dit_accel.families import Family, SiteSpec, Stack, register_family
    from dit_accel.families.catalog import find_family, unregister_family

    pipe = tiny_pipeline("pixart")
    known = find_family(pipe.transformer)
    plain_sites = (SiteSpec(path="attn1", kind="self_attn"), SiteSpec(path="ff", kind="ff"))
    bare = Family(
        name="pixart-without-norms",
        model_classes=known.model_classes,
        stacks=(Stack(path="transformer_blocks", alias="blocks", streams=("hidden_states",), sites=plain_sites),),
        guidance=known.guidance,
        conditioning=known.conditioning,
        text=known.text,
        latent_layout=known.latent_layout,
        patch=known.patch,
    )
    register_family(bare)
    try:
        accelerate_pipeline(pipe, EVERY_3)
    finally:
        unregister_family(bare)
    recorder = Recorder()
    pipe.transformer.compile(backend=recorder, fullgraph=True)
    _run(pipe, "pixart")
    assert sum("layer_norm" in name for name in recorder.live_calls()[1]) == 1


def test_compile_config_alone_compiles_one_row() -> None:
    pipe = tiny_pipeline("pixart")
    plain = _run(pipe, "pixart")
    accelerate_pipeline(pipe, CompileConfig(backend="eager"))
    assert torch.equal(_run(pipe, "pixart"), plain)
    assert len(session_of(pipe).runtimes[0].compiler.rows) == 1


@pytest.mark.slow
def test_inductor_agrees_with_eager_and_undo_is_exact() -> None:
    pipe = tiny_pipeline("pixart")
    plain = _run(pipe, "pixart")
    accelerate_pipeline(pipe, EVERY_3)
    eager = _run(pipe, "pixart")
    accelerate_pipeline(pipe, [EVERY_3, CompileConfig()])
    assert _relative_error(_run(pipe, "pixart"), eager) < 1e-3
    assert "compiled: counted by row" in str(summary(pipe))
    remove_acceleration(pipe)
    assert torch.equal(_run(pipe, "pixart"), plain)


def test_a_pipeline_that_came_compiled() -> None:
    pipe = tiny_pipeline("pixart")
    accelerate_pipeline(pipe, EVERY_3)
    eager = _run(pipe, "pixart")
    remove_acceleration(pipe)
    recorder = Recorder()
    pipe.transformer = torch.compile(pipe.transformer, backend=recorder)
    accelerate_pipeline(pipe, EVERY_3, strict=True)
    assert torch.equal(_run(pipe, "pixart"), eager)
    assert len(recorder.graphs) == 3
    remove_acceleration(pipe)
    assert "forward" not in vars(pipe.transformer._orig_mod)
    _run(pipe, "pixart")


@pytest.mark.slow
def test_a_denoiser_compiled_in_place_before() -> None:
    pipe = tiny_pipeline("pixart")
    accelerate_pipeline(pipe, EVERY_3)
    eager = _run(pipe, "pixart")
    remove_acceleration(pipe)
    pipe.transformer.compile(backend="eager")
    users_own = pipe.transformer._compiled_call_impl
    accelerate_pipeline(pipe, EVERY_3, strict=True)
    assert _relative_error(_run(pipe, "pixart"), eager) < 1e-3
    remove_acceleration(pipe)
    assert pipe.transformer._compiled_call_impl is users_own


def test_wrapping_after_acceleration_stays_exact() -> None:
    """``torch.compile(module)`` afterwards cannot be intercepted: it runs uncompiled, with the same result."""
    pipe = tiny_pipeline("pixart")
    accelerate_pipeline(pipe, EVERY_3)
    eager = _run(pipe, "pixart")
    pipe.transformer = torch.compile(pipe.transformer, backend="eager")
    with pytest.warns(AccelerationWarning, match="compiled around"):
        assert torch.equal(_run(pipe, "pixart"), eager)


def test_repeated_blocks() -> None:
    pipe = tiny_pipeline("flux")
    accelerate_pipeline(pipe, EVERY_3, strict=True)
    eager = _run(pipe, "flux")
    pipe.transformer.compile_repeated_blocks(backend="eager")
    torch.testing.assert_close(_run(pipe, "flux"), eager, rtol=0, atol=0)


def test_another_shape_compiles_again_and_is_right() -> None:
    pipe = tiny_pipeline("pixart")
    accelerate_pipeline(pipe, EVERY_3)
    wide = {"height": 64, "width": 128}
    eager = _run(pipe, "pixart", **wide)
    pipe.transformer.compile(backend="eager", fullgraph=True)
    _run(pipe, "pixart")
    torch.testing.assert_close(_run(pipe, "pixart", **wide), eager, rtol=0, atol=0)


def test_cuda_graph_modes_are_refused() -> None:
    with pytest.raises(ConfigError, match="overwrite"):
        CompileConfig(mode="reduce-overhead")


def test_offloaded_denoiser_is_refused() -> None:
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    pipe = tiny_pipeline("pixart")
    add_hook_to_module(pipe.transformer.transformer_blocks[0], AlignDevicesHook(execution_device="cpu"))
    with pytest.raises(UnsupportedModelError, match="offload"):
        accelerate_pipeline(pipe, [EVERY_3, CompileConfig()])
    assert "_dit_accel" not in vars(pipe)
