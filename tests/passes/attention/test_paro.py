"""PAROAttention on live pipelines: exact where nothing is left out, counted where something is, undone, combined."""

import pytest
import torch
from snapshot import assert_same, snapshot
from sparse_wan import BLOCK, STEPS, draw, paro, sparse_wan
from tiny import tiny_pipeline

from dit_accel import (
    AccelerationPlan,
    CompileConfig,
    GeneratorSpec,
    StaticCacheConfig,
    TrajectoryConfig,
    accelerate_pipeline,
    remove_acceleration,
    summary,
)
from dit_accel.errors import AccelerationWarning, ConfigError, PlanMismatchError, UnsupportedModelError
from dit_accel.passes.attention.layout import TokenLayout
from dit_accel.passes.attention.paro_config import PAROAttentionConfig
from dit_accel.session.session import session_of


def effect(pipe):
    return summary(pipe).denoisers[0].effects["paro_attention"]


def test_all_blocks_in_any_order_are_dense_attention() -> None:
    pipe = sparse_wan()
    plain = draw(pipe)
    accelerate_pipeline(pipe, paro(pipe, 1.0), strict=True)
    assert torch.allclose(draw(pipe), plain, atol=1e-4)
    assert effect(pipe).planned_frac == effect(pipe).actual_frac == 0.0


def test_what_is_planned_is_left_out_and_undone() -> None:
    pipe = sparse_wan()
    plain = draw(pipe)
    before = snapshot(pipe)
    config = paro(pipe, 0.4)
    accelerate_pipeline(pipe, config, strict=True)
    sparse = draw(pipe)
    assert (sparse - plain).abs().max() > 1e-3
    told = effect(pipe)
    assert told.what == "attention scores not computed" and told.shortfall is None
    assert told.planned_frac == pytest.approx(1 - float(config.densities().mean()))
    assert told.actual_frac == pytest.approx(told.planned_frac)
    assert torch.equal(draw(pipe), sparse), "a second run is as the first one"
    remove_acceleration(pipe)
    assert_same(snapshot(pipe), before)
    assert torch.equal(draw(pipe), plain)


def test_order_matters() -> None:
    """The same masks over tokens in another order compute something else."""
    pipe = sparse_wan()
    pictures = []
    for ordered in (True, False):
        accelerate_pipeline(pipe, paro(pipe, 0.4, ordered=ordered))
        pictures.append(draw(pipe))
    assert (pictures[0] - pictures[1]).abs().max() > 1e-3


def test_first_steps_and_layers_stay_dense() -> None:
    pipe = sparse_wan()
    accelerate_pipeline(pipe, paro(pipe, 0.4, parts=1), strict=True)
    draw(pipe)
    everything = effect(pipe).actual_frac
    accelerate_pipeline(pipe, paro(pipe, 0.4, parts=1, dense_steps_frac=0.5), strict=True)
    draw(pipe)
    assert effect(pipe).actual_frac == pytest.approx(everything / 2) == pytest.approx(effect(pipe).planned_frac)
    accelerate_pipeline(pipe, paro(pipe, 0.4, dense_layers=1), strict=True)
    draw(pipe)
    assert effect(pipe).actual_frac == pytest.approx(effect(pipe).planned_frac)
    assert 0 < effect(pipe).actual_frac < everything
    plain = sparse_wan()
    accelerate_pipeline(pipe, paro(pipe, 0.4, dense_steps_frac=1.0))
    assert torch.equal(draw(pipe), draw(plain))


def test_another_grid_is_refused() -> None:
    pipe = sparse_wan()
    size = {"height": 64, "num_frames": 5}
    plain = draw(pipe, **size)
    accelerate_pipeline(pipe, paro(pipe))
    with pytest.warns(AccelerationWarning, match="masks are for 3 x 8 x 8 tokens and this run has 2 x 4 x 8 tokens"):
        assert torch.equal(draw(pipe, **size), plain)
    assert effect(pipe).actual_frac == 0.0 and "3 x 8 x 8" in effect(pipe).shortfall
    draw(pipe)
    assert effect(pipe).actual_frac > 0.3 and effect(pipe).shortfall is None
    accelerate_pipeline(pipe, paro(pipe), strict=True)
    with pytest.raises(PlanMismatchError, match="calibrate for this size"):
        draw(pipe, **size)
    accelerate_pipeline(pipe, paro(pipe, min_tokens=1000))
    with pytest.warns(AccelerationWarning, match="192 tokens are fewer than min_tokens = 1000"):
        draw(pipe)


def test_masks_of_another_model_are_refused() -> None:
    pipe = sparse_wan()
    good = paro(pipe)
    fields = {**good.to_dict(), "layers": ["blocks.0.attn1", "blocks.7.attn1"]}
    fields.pop("type"), fields.pop("version")
    with pytest.raises(UnsupportedModelError, match=r"layers that it does not have \(blocks.7.attn1\)"):
        accelerate_pipeline(pipe, PAROAttentionConfig.from_dict(fields, good.tensors()))
    four = PAROAttentionConfig(
        grid=good.grid,
        layers=good.layers,
        orders=good.orders.repeat(1, 2),
        masks=good.masks.repeat(1, 1, 2, 1),
        block=BLOCK,
    )
    with pytest.raises(UnsupportedModelError, match=r"masks are for 4 heads and 'blocks\.0\.attn1' has 2"):
        accelerate_pipeline(pipe, four)
    with pytest.raises(UnsupportedModelError, match="hands q, k and v on"):
        accelerate_pipeline(tiny_pipeline("sana"), good)


def test_heads_without_a_kernel_are_dense_and_it_is_said() -> None:
    pipe = tiny_pipeline("wan")
    layout = TokenLayout((2, 4, 4))
    plain = draw(pipe, height=64, width=64, num_frames=5)
    accelerate_pipeline(pipe, paro(pipe, layout=layout))
    with pytest.warns(AccelerationWarning, match="computed whole: there is no sparse kernel for heads of size 12"):
        assert torch.equal(draw(pipe, height=64, width=64, num_frames=5), plain)
    assert effect(pipe).actual_frac == 0.0


def test_a_replaced_processor_is_noticed() -> None:
    pipe = sparse_wan()
    kind = type(pipe.transformer.blocks[0].attn1.processor)
    accelerate_pipeline(pipe, paro(pipe))
    pipe.transformer.set_attn_processor(kind())
    with pytest.warns(AccelerationWarning, match="someone has replaced their processors"):
        draw(pipe)
    remove_acceleration(pipe)
    assert type(pipe.transformer.blocks[0].attn1.processor) is kind


def test_a_plan_is_saved_and_loaded(tmp_path) -> None:
    pipe = sparse_wan()
    config = paro(pipe, dense_steps_frac=0.25)
    plan = AccelerationPlan(passes=(config,))
    plan.save_pretrained(tmp_path)
    loaded = AccelerationPlan.from_pretrained(tmp_path)
    assert loaded.passes == (config,)
    accelerate_pipeline(pipe, config)
    own = draw(pipe)
    accelerate_pipeline(pipe, loaded)
    assert torch.equal(draw(pipe), own)


def test_text_in_front_is_always_computed() -> None:
    pipe = tiny_pipeline("cogvideox")
    plain = draw(pipe, "cogvideox")
    layout = TokenLayout((2, 4, 4), (0, 6))
    accelerate_pipeline(pipe, paro(pipe, 1.0, layout=layout), strict=True)
    assert torch.allclose(draw(pipe, "cogvideox"), plain, atol=1e-4)
    config = paro(pipe, 0.0, layout=layout)
    assert config.mask(0, 0)[0, :, 0].all() and config.mask(0, 0)[0, :, :, 0].all()
    accelerate_pipeline(pipe, config, strict=True)
    draw(pipe, "cogvideox")
    assert effect(pipe).actual_frac == pytest.approx(effect(pipe).planned_frac) != 0


def test_with_static_caching() -> None:
    pipe = sparse_wan()
    cache = StaticCacheConfig(schedule=GeneratorSpec("every_n", n=2))
    accelerate_pipeline(pipe, [cache, paro(pipe, 1.0)])
    both = draw(pipe)
    told = effect(pipe)
    accelerate_pipeline(pipe, cache)
    assert torch.allclose(both, draw(pipe), atol=1e-4)
    accelerate_pipeline(pipe, [cache, paro(pipe, 0.4, parts=1)])
    draw(pipe)
    assert told.total == effect(pipe).total
    assert effect(pipe).actual_frac == pytest.approx(effect(pipe).planned_frac), "a share of the calls that are made"


def test_with_a_trajectory() -> None:
    pipe = sparse_wan()
    half = TrajectoryConfig(computed=(True, False) * (STEPS // 2))
    accelerate_pipeline(pipe, [half, paro(pipe, 1.0)])
    both = draw(pipe)
    accelerate_pipeline(pipe, half)
    assert torch.allclose(both, draw(pipe), atol=1e-4)
    accelerate_pipeline(pipe, [half, paro(pipe, 0.4, dense_steps_frac=0.5)], strict=True)
    draw(pipe)
    assert summary(pipe).denoisers[0].effects["trajectory"].actual_frac == 0.5
    assert 0 < effect(pipe).actual_frac < 0.4, "of the two calls that are made, one is dense"


def test_compiled_rows_are_sparse_or_dense() -> None:
    pipe = sparse_wan()
    config = paro(pipe, 0.4, dense_steps_frac=0.25)
    accelerate_pipeline(pipe, config)
    eager, told = draw(pipe), effect(pipe)
    accelerate_pipeline(pipe, [config, CompileConfig(backend="aot_eager")], strict=True)
    torch._dynamo.utils.counters.clear()
    assert torch.allclose(draw(pipe), eager, atol=1e-4)
    runner = session_of(pipe).runtimes[0].compiler
    assert len(runner.rows) == 2, "one graph for dense steps, one for sparse ones, whatever the masks of the step"
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
    assert effect(pipe) == told and 0 < told.actual_frac == pytest.approx(told.planned_frac)
    draw(pipe)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2, "and counting makes no more of them"


def test_two_pipelines_do_not_see_each_other() -> None:
    one, other = sparse_wan(), sparse_wan()
    plain = draw(other)
    accelerate_pipeline(one, paro(one))
    draw(one)
    assert torch.equal(draw(other), plain)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": [3, 8]}, "grid must be frames, rows and columns"),
        ({"block": 48}, "block must be one of 16, 32, 64, 128, got 48"),
        ({"dense_steps_frac": 1.5}, r"dense_steps_frac must be a number in \[0, 1\]"),
        ({"dense_layers": -1}, "dense_layers must be a whole number"),
        ({"text": [5, 9]}, "in front of the tokens or behind them"),
        ({"layers": ["blocks.0.attn1"]}, "1 layers of 2 heads and 12 blocks need masks"),
        ({"blok": 64}, "Did you mean 'block'"),
    ],
)
def test_bad_settings_are_named(change: dict, message: str) -> None:
    good = paro(sparse_wan())
    fields = {key: value for key, value in good.to_dict().items() if key not in ("type", "version")}
    with pytest.raises(ConfigError, match=message):
        PAROAttentionConfig.from_dict({**fields, **change}, good.tensors())
    with pytest.raises(ConfigError, match="no tensors masks, orders"):
        PAROAttentionConfig.from_dict(fields, {})


def test_a_plan_without_a_layer_for_every_row_is_refused() -> None:
    good = paro(sparse_wan())
    with pytest.raises(ConfigError, match="orders must be below 6, got 9"):
        PAROAttentionConfig(
            grid=good.grid, layers=good.layers, orders=good.orders * 0 + 9, masks=good.masks, block=BLOCK
        )
    with pytest.raises(ConfigError, match="masks must be a uint8 tensor"):
        PAROAttentionConfig(
            grid=good.grid, layers=good.layers, orders=good.orders, masks=good.masks.bool(), block=BLOCK
        )


@pytest.mark.parametrize("precision", ["int8", "int8+float8"])
def test_products_in_few_bits(precision, caplog) -> None:
    pipe = sparse_wan(head_dim=32)
    accelerate_pipeline(pipe, paro(pipe, 0.4, block=32), strict=True)
    plain = draw(pipe)
    accelerate_pipeline(pipe, paro(pipe, 0.4, block=32, precision=precision), strict=True)
    few = draw(pipe)
    assert 0 < (few - plain).norm() < 0.2 * plain.norm() and effect(pipe).actual_frac > 0.3
    with pytest.raises(ConfigError, match="precision must be one of plain, int8"):
        paro(pipe, precision="int4")
