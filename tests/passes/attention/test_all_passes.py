"""What holds for every pass that decides on scores: offload, NaN, plans on disk, branches, one at a time, undone."""

import pytest
import torch
from diffusers.hooks import apply_group_offloading
from sparse_wan import BLOCK, STEPS, draw, paro, sparse_configs, sparse_wan

from dit_accel import (
    AccelerationPlan,
    RettentionConfig,
    SLAConfig,
    SparseDConfig,
    StaticMaskConfig,
    VMoBAConfig,
    accelerate_pipeline,
    remove_acceleration,
    summary,
)
from dit_accel.errors import ConfigError
from dit_accel.kernels.gather_select import choose_best, choose_share
from dit_accel.passes.attention import ordering, partitions, static_mask
from dit_accel.passes.attention.choosing import AttendedSequence
from dit_accel.passes.attention.layout import TokenLayout
from dit_accel.passes.attention.paro import PermutedAttention
from dit_accel.passes.attention.sparse_d import OneShot
from dit_accel.passes.attention.static_mask import StaticAttention
from dit_accel.passes.attention.vmoba import BoxedAttention
from dit_accel.session.session import session_of

CONFIGS = sparse_configs()


@pytest.fixture(params=["paro_attention", *CONFIGS])
def config(request):
    return CONFIGS.get(request.param) or paro(sparse_wan(), 0.4)


def test_offload_and_undo(config) -> None:
    """Weights that come and go change nothing, whichever comes first."""
    pipe = sparse_wan()
    plain = draw(pipe)
    accelerate_pipeline(pipe, config)
    sparse = draw(pipe)
    remove_acceleration(pipe)
    apply_group_offloading(pipe.transformer, torch.device("cpu"), torch.device("cpu"), "leaf_level")
    accelerate_pipeline(pipe, config)
    assert torch.equal(draw(pipe), sparse)
    remove_acceleration(pipe)
    assert torch.equal(draw(pipe), plain)
    pipe = sparse_wan()
    accelerate_pipeline(pipe, config)
    pipe.enable_model_cpu_offload(device="cpu")
    assert torch.equal(draw(pipe), sparse)
    assert summary(pipe).denoisers[0].effects[config.type_name].actual_frac > 0.2


def test_a_plan_on_disk_is_the_same(config, tmp_path) -> None:
    AccelerationPlan(passes=(config,)).save_pretrained(tmp_path)
    assert AccelerationPlan.from_pretrained(tmp_path).passes == (config,)


def test_nothing_leaks_between_sizes_and_runs(config) -> None:
    """Another size in between, and another number of videos; then as before."""
    pipe = sparse_wan()
    accelerate_pipeline(pipe, config)
    first = draw(pipe)
    if config.type_name != "paro_attention":
        draw(pipe, height=64, num_frames=5)
    draw(pipe, num_videos_per_prompt=2)
    assert torch.equal(draw(pipe), first)


def test_two_that_decide_on_scores_are_refused(config) -> None:
    other = SparseDConfig() if config.type_name != "sparse_d" else StaticMaskConfig()
    with pytest.raises(ConfigError, match="both want to be the one that decides which attention scores are computed"):
        accelerate_pipeline(sparse_wan(), [config, other])


def test_cross_attention_is_not_touched(config) -> None:
    """Neither its processors nor what it computes: it sees as many calls as in a plain run, none of them sparse."""
    pipe = sparse_wan()
    blocks = pipe.transformer.blocks
    before = [block.attn2.processor for block in blocks]
    accelerate_pipeline(pipe, config)
    assert all(block.attn2.processor is own for block, own in zip(blocks, before, strict=True))
    routes = session_of(pipe).runtimes[0].around_of(config.type_name).sparse.layers
    assert [layer.site_id for layer in routes] == ["blocks.0.attn1", "blocks.1.attn1"]
    draw(pipe)
    assert not any(layer.route.refusals for layer in routes)
    assert all(layer.route.calls == 2 * STEPS for layer in routes), "two branches of guidance in every step"


@pytest.mark.parametrize("name", ["paro_attention", "sparse_d", "sla", "vmoba", "rettention", "static_mask"])
def test_nan_stays_where_dense_attention_has_it(name: str) -> None:
    """In one query: its row. What others compute is what they compute without it."""
    layout = TokenLayout((3, 4, 4))
    q, k, v = (torch.randn(1, 48, 2, 16, generator=torch.Generator().manual_seed(n)) for n in range(3))
    bad = q.clone()
    bad[0, 20, 0, 3] = torch.nan
    each = one_layer(name, layout)
    if hasattr(each, "begin"):
        each.begin(AttendedSequence(length=48, layout=layout))
    with torch.no_grad():
        found, clean = each(bad, k, v, None), each(q, k, v, None)
    assert found[0, 20, 0].isnan().all()
    others = torch.ones(48, 2, dtype=torch.bool)
    others[20, 0] = False
    assert found[0][others].isfinite().all()
    near = others.clone()
    near[16:32, 0] = False  # one choice for a whole block: that of the bad query's neighbours may be another one
    assert torch.equal(found[0][near], clean[0][near])


def one_layer(name: str, layout: TokenLayout):
    """Attention of one layer as the pass has it in a run, two heads of 16."""
    settings = {"density": 0.4, "block": BLOCK}
    if name == "paro_attention":
        return PermutedAttention.of(paro(sparse_wan(), 0.4, layout=layout), 0, 0, torch.device("cpu"))
    if name == "sparse_d":
        each = OneShot(SparseDConfig(**settings))
        each.tables[None] = PermutedAttention.of(
            paro(sparse_wan(), 0.4, layout=layout), 0, 0, torch.device("cpu")
        ).table
        return each
    if name == "sla":
        return SLAConfig(**settings).attention(16, linear=True)
    if name == "vmoba":
        return BoxedAttention(VMoBAConfig(density=0.4, temporal=1), 0)
    if name == "rettention":
        return RettentionConfig(**settings).attention()
    return StaticAttention(StaticMaskConfig(**settings))


def test_nan_in_a_choice_is_no_crash() -> None:
    gate = torch.randn(1, 1, 4, 10)
    gate[0, 0, 1, 3] = torch.nan
    own = torch.arange(10) % 4
    for pool in ("query", "head"):
        for chosen in (choose_best(gate, own, 2, pool), choose_share(gate, own, 0.5, pool)):
            assert chosen[0, 0, own, torch.arange(10)].all()


@pytest.mark.parametrize("name", ["paro_attention", "sparse_d", "sla", "vmoba", "rettention", "static_mask"])
@pytest.mark.parametrize("place", [1, 2], ids=["key", "value"])
def test_nan_of_a_key_is_in_every_row_that_reads_it_and_in_no_other_head(name: str, place: int) -> None:
    layout = TokenLayout((3, 4, 4))
    parts = [torch.randn(1, 48, 2, 16, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    parts[place][0, 20, 0, 3] = torch.nan
    each = one_layer(name, layout)
    if hasattr(each, "begin"):
        each.begin(AttendedSequence(length=48, layout=layout))
    with torch.no_grad():
        rows = each(*parts, None)[0].isnan().any(-1)
    assert rows[20, 0] and not rows[:, 1].any()


def test_what_all_layers_and_runs_share_is_made_once(monkeypatch) -> None:
    """Tables of sizes and settings alone: some tenths of a second each at the sizes of videos."""
    for cached in (static_mask.static_table, ordering._tiles, partitions.key_blocks):
        cached.cache_clear()
    for module, function, config in (
        (static_mask, "static_mask", StaticMaskConfig(density=0.26, block=BLOCK)),
        (static_mask, "static_mask", RettentionConfig(density=0.27, block=BLOCK, dense_steps_frac=0)),
        (ordering, "order_of", SLAConfig(density=0.25, block=32, order="tiles")),
        (ordering, "order_of", SparseDConfig(density=0.25, block=64, order="tiles")),
        (partitions.KeyBlocks, "of", VMoBAConfig(density=0.25, temporal=2, cycle=("temporal",), dense_steps_frac=0)),
    ):
        made, make = [], getattr(module, function)
        with monkeypatch.context() as patch:
            patch.setattr(
                module, function, lambda *args, made=made, make=make, **more: made.append(1) or make(*args, **more)
            )
            pipe = sparse_wan()
            accelerate_pipeline(pipe, config)
            draw(pipe), draw(pipe)
        assert len(made) == 1, config


def test_layers_share_one_copy_on_a_device() -> None:
    sequence = AttendedSequence(length=48, layout=TokenLayout((3, 4, 4))).on(torch.device("meta"))
    layers = [StaticAttention(StaticMaskConfig(density=0.4, block=BLOCK)) for _ in range(2)]
    for each in layers:
        each.begin(sequence)
    assert layers[0].static is layers[1].static and layers[0].static.table.lut.is_meta
    assert sequence.on(torch.device("meta")) is sequence and sequence.on(torch.device("cpu")).copies == {}
