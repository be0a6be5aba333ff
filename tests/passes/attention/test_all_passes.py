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
from dit_accel.kernels.attention import sparse_or_dense
from dit_accel.kernels.block_table import BlockTable
from dit_accel.kernels.gather_select import choose_best, choose_share
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


def test_what_has_no_kernel_is_dense_and_it_is_said_once(caplog) -> None:
    q = torch.randn(1, 20, 1, 12)
    table = BlockTable.from_mask(torch.eye(2, dtype=torch.bool)[None, None], block_q=16, block_k=16)
    for _ in range(2):
        out = sparse_or_dense(q, q, q, table)
    assert torch.allclose(
        out,
        torch.nn.functional.scaled_dot_product_attention(
            q.mT.mT.transpose(1, 2), q.transpose(1, 2), q.transpose(1, 2)
        ).transpose(1, 2),
    )
    assert sum("heads of size 12" in message for message in caplog.messages) <= 1
    with pytest.raises(ValueError, match="build it for these lengths"):
        sparse_or_dense(torch.randn(1, 50, 1, 16), torch.randn(1, 50, 1, 16), torch.randn(1, 50, 1, 16), table)
