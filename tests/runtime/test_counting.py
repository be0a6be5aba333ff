"""Which modules really ran, counted by the parameters that were read, against the schedule and the summary."""

import pytest
import torch
from reference import ParameterReads, config, every_second, graph_of
from tiny import tiny_call, tiny_pipeline

from dit_accel import accelerate_pipeline, summary
from dit_accel.families.base import submodule
from dit_accel.families.pipeline import find_denoisers
from dit_accel.schedules import GeneratorSpec, Schedule, lower
from dit_accel.schedules.lowering import COMPUTE, STORE

STEPS = 6


def _count(name: str, plan: object, num_steps: int = STEPS) -> tuple[ParameterReads, ParameterReads, object]:
    """Reads of one run without and one with the plan, and the stats of the latter."""
    plain, pipe = tiny_pipeline(name), tiny_pipeline(name)
    reads = []
    accelerate_pipeline(pipe, plan)  # type: ignore[arg-type]
    for one in (plain, pipe):
        with ParameterReads(find_denoisers(one)[0][1]) as counter:
            one(**tiny_call(name, num_inference_steps=num_steps))
        reads.append(counter)
    return reads[0], reads[1], summary(pipe).denoisers[0].last_run


@pytest.mark.parametrize("name", ["pixart", "flux", "sd3", "sd", "wan"])
def test_module_calls_are_those_of_the_schedule(name: str) -> None:
    pipe = tiny_pipeline(name)
    denoiser = find_denoisers(pipe)[0][1]
    graph = graph_of(denoiser)
    schedule = every_second(denoiser, STEPS)
    plain, got, stats = _count(name, config(schedule, invariants=False))
    program = lower(schedule, graph)
    calls_per_step = 2 if name == "wan" else 1
    counted = 0
    for position, site in enumerate(graph):
        path = site.id if name == "sd" else site.id.replace("blocks.", _stack(name), 1)
        path = path.replace("single.", "single_transformer_blocks.", 1) if name == "flux" else path
        module = submodule(denoiser, path)
        if module is None or not any(True for _ in module.parameters()) or site.kind in ("model", "block"):
            continue
        steps = sum(row.actions[position] in (COMPUTE, STORE) for row in program.rows)
        per_call = plain.under(path) / (STEPS * calls_per_step)
        assert got.under(path) == steps * calls_per_step * per_call, site.id
        counted += 1
    assert counted > 6
    assert stats.actual_computed == stats.planned_computed  # type: ignore[attr-defined]
    active = [p for p in program.active if not graph.sites[p].auxiliary]
    computed = sum(row.actions[p] in (COMPUTE, STORE) for row in program.rows for p in active)
    assert stats.actual_computed == computed * calls_per_step  # type: ignore[attr-defined]
    assert stats.site_calls == len(active) * STEPS * calls_per_step  # type: ignore[attr-defined]
    reused = sum(row.actions[p] == "reuse" for row in program.rows for p in active)
    assert stats.actual_reuse == stats.planned_reuse == reused * calls_per_step  # type: ignore[attr-defined]


def _stack(name: str) -> str:
    return "blocks." if name == "wan" else "transformer_blocks."


def test_lossless_computes_text_projections_once() -> None:
    plain, got, _ = _count("pixart", "lossless")
    for path in ["caption_projection", *(f"transformer_blocks.{i}.attn2.to_{p}" for i in range(3) for p in "kv")]:
        assert (plain.under(path), got.under(path)) == (STEPS, 1), path
    assert got.under("transformer_blocks.0.attn1") == STEPS


def test_a_reused_block_runs_nothing_inside() -> None:
    _, got, stats = _count("pixart", config(Schedule(STEPS, {"blocks.1": "100100"})))
    assert got.under("transformer_blocks.1") == 2
    assert got.under("transformer_blocks.0.attn1") == STEPS
    assert stats.actual_reuse == stats.planned_reuse  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["pixart", "sd", "flux"])
def test_the_whole_model_runs_every_third_step(name: str) -> None:
    plain, got, stats = _count(name, config(GeneratorSpec("model_output", n=3), invariants=False))  # type: ignore
    assert all(got.counts[key] * 3 == count for key, count in plain.counts.items())
    assert (stats.calls, stats.actual_reuse, stats.actual_computed) == (6, 4, 2)  # type: ignore[attr-defined]
    assert (stats.planned_computed, stats.site_calls) == (2, 6)  # type: ignore[attr-defined]


def test_only_what_is_called_and_acts_is_wrapped() -> None:
    pipe = accelerate_pipeline(
        tiny_pipeline("pixart"),
        config(
            Schedule(
                STEPS,
                {"blocks.1": "100100"},
            )
        ),
    )
    lossless = accelerate_pipeline(tiny_pipeline("pixart"), "lossless")
    texts = summary(lossless).denoisers[0].num_wrapped
    assert texts == 1 + 3 * 2
    assert summary(pipe).denoisers[0].num_wrapped == texts + 1


def test_deepcache_runs_only_the_outermost_path_on_cached_steps() -> None:
    _, got, _ = _count("sd", config(GeneratorSpec("deepcache", n=3), invariants=False))  # type: ignore[arg-type]
    for path in ("down_blocks.0", "down_blocks.2", "mid_block", "up_blocks.0", "up_blocks.1", "up_blocks.2.resnets.1"):
        assert got.under(path) == 2 * _reads_per_call("sd", path), path
    for path in (
        "conv_in",
        "up_blocks.2.resnets.2",
        "up_blocks.2.attentions.2.proj_out",
        "conv_out",
        "time_embedding",
    ):
        assert got.under(path) == STEPS * _reads_per_call("sd", path), path


def test_encoder_propagation_runs_the_decoder_at_every_step() -> None:
    keys = (0, 1, 3)
    spec = GeneratorSpec("encoder_propagation", key_steps=keys)
    _, got, _ = _count("sd", config(spec, invariants=False))  # type: ignore[arg-type]
    for path in ("conv_in", "down_blocks.0", "down_blocks.1", "down_blocks.2", "mid_block"):
        assert got.under(path) == len(keys) * _reads_per_call("sd", path), path
    for path in ("up_blocks.0", "up_blocks.1", "up_blocks.2", "conv_out"):
        assert got.under(path) == STEPS * _reads_per_call("sd", path), path


def _reads_per_call(name: str, path: str) -> int:
    pipe = tiny_pipeline(name)
    with ParameterReads(find_denoisers(pipe)[0][1]) as counter:
        pipe(**tiny_call(name, num_inference_steps=1))
    return counter.under(path)


def test_peak_memory_is_what_the_schedule_keeps() -> None:
    pipe = tiny_pipeline("pixart")
    sizes: dict[str, int] = {}
    for i, block in enumerate(pipe.transformer.transformer_blocks):
        block.attn1.register_forward_hook(lambda m, a, out, i=i: sizes.__setitem__(f"blocks.{i}.attn1", out.nbytes))
    # block 0 holds over steps 0-1, block 1 over 2-4, block 2 over 1-2: at most two at once (in step 2)
    rows = {"blocks.0.attn1": "101111", "blocks.1.attn1": "111001", "blocks.2.attn1": "110111"}
    accelerate_pipeline(pipe, config(Schedule(STEPS, rows), invariants=False))
    pipe(**tiny_call("pixart", num_inference_steps=STEPS))
    stats = summary(pipe).denoisers[0].last_run
    assert stats is not None
    assert stats.peak_bytes == sizes["blocks.1.attn1"] + sizes["blocks.2.attn1"]
    assert len(set(sizes.values())) == 1


def test_peak_memory_counts_both_branches() -> None:
    kept = {}
    for calls, guidance in ((1, 1.0), (2, 5.0)):
        pipe = tiny_pipeline("wan")
        accelerate_pipeline(pipe, config(Schedule(2, {"blocks.0.attn1": "10"}), invariants=False))
        pipe(**tiny_call("wan", num_inference_steps=2, guidance_scale=guidance))
        stats = summary(pipe).denoisers[0].last_run
        assert stats is not None
        kept[calls] = stats.peak_bytes
    assert kept[2] == 2 * kept[1] > 0


def test_nothing_is_held_after_a_run() -> None:
    import gc
    import weakref

    pipe = tiny_pipeline("pixart")
    accelerate_pipeline(pipe, "balanced")
    alive: list[weakref.ref[torch.Tensor]] = []
    for block in pipe.transformer.transformer_blocks:
        for leaf in (block.attn1.to_out[0], block.attn2.to_out[0], block.ff.net[2]):
            leaf.register_forward_hook(lambda m, a, out: alive.append(weakref.ref(out)))
    pipe(**tiny_call("pixart", num_inference_steps=STEPS))
    gc.collect()
    assert alive
    assert not [ref for ref in alive if ref() is not None]
