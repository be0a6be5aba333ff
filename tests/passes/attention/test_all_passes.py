"""What holds for every pass that decides on scores: offload, NaN, plans on disk, branches, one at a time, undone."""

import pytest
import torch
from diffusers.hooks import apply_group_offloading
from sparse_wan import BLOCK, draw, paro, sparse_wan

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

WEIGHTS = {
    f"blocks.0.attn1.{kind}": torch.full((16, 16) if kind == "weight" else (16,), 0.1) for kind in ("weight", "bias")
}
CONFIGS = {
    "sparse_d": SparseDConfig(density=0.25, block=BLOCK, dense_steps_frac=0.25, order="tiles"),
    "sla": SLAConfig(density=0.25, block=BLOCK, weights=WEIGHTS),
    "vmoba": VMoBAConfig(density=0.25, temporal=1, dense_steps_frac=0),
    "rettention": RettentionConfig(density=0.25, block=BLOCK, dense_steps_frac=0, refresh=2, storage="bfloat16"),
    "static_mask": StaticMaskConfig(density=0.25, block=BLOCK, precision="int8"),
}


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


@pytest.mark.parametrize("name", ["sla", "vmoba", "rettention", "static_mask"])
def test_nan_stays_where_dense_attention_has_it(name: str) -> None:
    """In one query: its row. What others compute is what they compute without it."""
    layout = TokenLayout((3, 4, 4))
    sequence = AttendedSequence(length=48, layout=layout)
    q, k, v = (torch.randn(1, 48, 2, 16, generator=torch.Generator().manual_seed(n)) for n in range(3))
    bad = q.clone()
    bad[0, 20, 0, 3] = torch.nan
    if name == "sla":
        each = SLAConfig(density=0.4, block=BLOCK).attention(16, linear=True)
    elif name == "vmoba":
        from dit_accel.passes.attention.vmoba import BoxedAttention

        each = BoxedAttention(VMoBAConfig(density=0.4, temporal=1), 0)
    elif name == "rettention":
        each = RettentionConfig(density=0.4, block=BLOCK).attention()
    else:
        from dit_accel.passes.attention.static_mask import StaticAttention

        each = StaticAttention(StaticMaskConfig(density=0.4, block=BLOCK))
    each.begin(sequence)
    with torch.no_grad():
        found, clean = each(bad, k, v, None), each(q, k, v, None)
    assert found[0, 20, 0].isnan().all()
    others = torch.ones(48, 2, dtype=torch.bool)
    others[20, 0] = False
    assert found[0][others].isfinite().all()
    near = others.clone()
    near[16:32, 0] = False  # one choice for a whole block: that of the bad query's neighbours may be another one
    assert torch.equal(found[0][near], clean[0][near])


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
