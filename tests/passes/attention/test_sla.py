"""SLA: sparse alone without weights, trained projections as parameters of the model, as a plan, and undone."""

import pytest
import torch
from snapshot import assert_same, snapshot
from sparse_wan import BLOCK, STEPS, draw, sparse_wan
from tiny import tiny_pipeline

from dit_accel import (
    AccelerationPlan,
    CompileConfig,
    GeneratorSpec,
    SLAConfig,
    SparseDConfig,
    StaticCacheConfig,
    TrajectoryConfig,
    accelerate_pipeline,
    remove_acceleration,
    summary,
    trainable_sla,
)
from dit_accel.errors import AccelerationWarning, ConfigError, UnsupportedModelError
from dit_accel.kernels.attention import dense
from dit_accel.passes.attention.sla_module import SLAAttention

CONFIG = SLAConfig(density=0.25, block=BLOCK)


def effect(pipe):
    return summary(pipe).denoisers[0].effects["sla"]


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    sites = [f"blocks.{block}.attn1" for block in range(2)]
    return {
        **{f"{site}.weight": torch.randn(16, 16, generator=draw) / 4 for site in sites},
        **{f"{site}.bias": torch.randn(16, generator=draw) / 4 for site in sites},
    }


def test_without_weights_it_is_sparse_and_undone() -> None:
    pipe = sparse_wan()
    plain, before = draw(pipe), snapshot(pipe)
    accelerate_pipeline(pipe, SLAConfig(density=1.0, block=BLOCK), strict=True)
    assert torch.allclose(draw(pipe), plain, atol=1e-4)
    accelerate_pipeline(pipe, CONFIG, strict=True)
    sparse = draw(pipe)
    assert (sparse - plain).abs().max() > 1e-3
    assert effect(pipe).planned_frac == effect(pipe).actual_frac == pytest.approx(0.75)
    assert torch.equal(draw(pipe), sparse)
    remove_acceleration(pipe)
    assert_same(snapshot(pipe), before)
    assert torch.equal(draw(pipe), plain)


def test_first_steps_layers_and_short_sequences_stay_dense() -> None:
    pipe = sparse_wan()
    config = SLAConfig(density=0.25, block=BLOCK, dense_steps_frac=0.5, dense_layers=1)
    accelerate_pipeline(pipe, config, strict=True)
    draw(pipe)
    assert effect(pipe).planned_frac == effect(pipe).actual_frac == pytest.approx(0.75 / 4)
    accelerate_pipeline(pipe, SLAConfig(min_tokens=1000))
    with pytest.warns(AccelerationWarning, match="192 tokens are fewer than min_tokens = 1000"):
        draw(pipe)
    pipe = tiny_pipeline("wan")
    accelerate_pipeline(pipe, CONFIG)
    with pytest.warns(AccelerationWarning, match="no sparse kernel for heads of size 12"):
        draw(pipe)


def test_one_layer_is_its_definition() -> None:
    """Against softmax over the chosen tokens and the linear weights of the others, text in front."""
    each = SLAAttention(16, density=0.3, block=BLOCK)
    each.text = (0, 20)
    drawing = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 150, 3, 16, generator=drawing) for _ in range(3))
    with torch.no_grad():
        sparse = each(q, k, v)
        each.proj.weight.copy_(torch.randn(16, 16, generator=drawing)), each.proj.bias.fill_(0.5)
        both = each(q, k, v)
    kept = each.table(q, k).mask.repeat_interleave(BLOCK, -1).repeat_interleave(BLOCK, -2)[..., :150, :150]
    assert kept[..., :20].all() and kept[..., :20, :].all() and 0.3 < kept.float().mean() < 0.6
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / 4
    want = torch.einsum("bhqk,bkhd->bqhd", scores.masked_fill(~kept, -torch.inf).softmax(-1), v)
    assert torch.allclose(sparse, want, atol=1e-5), "the projection begins as zero"
    rest = torch.einsum("bqhd,bkhd->bhqk", q.softmax(-1), k.softmax(-1)) * ~kept
    rest = rest / rest.sum(-1, keepdim=True).clamp_min(1e-9)
    added = each.proj(torch.einsum("bhqk,bkhd->bqhd", rest, v)) * (~kept).any(-1).mT[..., None]
    assert torch.allclose(both, want + added, atol=1e-5)
    assert torch.allclose(both[:, :20], dense(q, k, v)[:, :20], atol=1e-5)


@pytest.mark.parametrize("scope", ["marginal", "all"])
def test_it_is_trained_kept_as_a_plan_and_removed(tmp_path, scope) -> None:
    pipe = sparse_wan()
    draw(pipe)
    before = snapshot(pipe)
    model = pipe.transformer
    config = SLAConfig(density=0.1, block=BLOCK, scope=scope)
    drawing = torch.Generator().manual_seed(0)
    inputs = {
        "hidden_states": torch.randn(1, model.config.in_channels, 3, 16, 16, generator=drawing),
        "timestep": torch.tensor([500]),
        "encoder_hidden_states": torch.randn(1, 6, model.config.text_dim, generator=drawing),
    }
    target = model(**inputs).sample
    training = trainable_sla(model, config)
    assert "blocks.0.attn1.sla.proj.weight" in model.state_dict()
    assert len(list(training.parameters())) == 4
    optimiser = torch.optim.Adam(training.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        loss = (model(**inputs).sample - target).square().mean()
        losses.append(loss.item())
        optimiser.zero_grad(), loss.backward(), optimiser.step()
    assert losses[-1] < 0.95 * losses[0], losses
    assert all((parameter.grad != 0).any() for parameter in training.parameters())
    with torch.no_grad():
        output = model(**inputs).sample
    kept = training.trained(dense_steps_frac=0.25)
    training.remove()
    assert_same(snapshot(pipe), before)
    again = trainable_sla(model, kept)  # goes on where it was
    with torch.no_grad():
        assert torch.equal(model(**inputs).sample, output)
    again.remove()
    AccelerationPlan(passes=(kept,)).save_pretrained(tmp_path)
    (loaded,) = AccelerationPlan.from_pretrained(tmp_path).passes
    assert loaded == kept and loaded.dense_steps_frac == 0.25 and loaded.scope == scope
    accelerate_pipeline(pipe, loaded, strict=True)
    trained = draw(pipe)
    accelerate_pipeline(pipe, SLAConfig(density=0.1, block=BLOCK, dense_steps_frac=0.25))
    assert (draw(pipe) - trained).abs().max() > 1e-3
    remove_acceleration(pipe)
    assert_same(snapshot(pipe), before)


def test_text_in_front_is_always_computed() -> None:
    pipe = tiny_pipeline("cogvideox")
    plain = draw(pipe, "cogvideox")
    accelerate_pipeline(pipe, CONFIG, strict=True)
    assert (draw(pipe, "cogvideox") - plain).abs().max() > 0
    assert effect(pipe).actual_frac == pytest.approx(effect(pipe).planned_frac) != 0


@pytest.mark.parametrize(
    "other",
    [
        StaticCacheConfig(schedule=GeneratorSpec("every_n", n=2)),
        TrajectoryConfig(computed=(True, False) * (STEPS // 2)),
        pytest.param(CompileConfig(backend="aot_eager"), marks=pytest.mark.slow),
    ],
    ids=["static_cache", "trajectory", "compile"],
)
def test_with_other_passes(other) -> None:
    pipe = sparse_wan()
    config = SLAConfig(density=0.25, block=BLOCK, weights=weights())
    if isinstance(other, CompileConfig):
        accelerate_pipeline(pipe, config)
        alone = draw(pipe)
        accelerate_pipeline(pipe, [config, other], strict=True)
        assert torch.allclose(draw(pipe), alone, atol=1e-4)
        assert torch._dynamo.utils.counters["graph_break"] == {}
        return
    accelerate_pipeline(pipe, [other, SLAConfig(density=1.0, block=BLOCK)])
    both = draw(pipe)
    accelerate_pipeline(pipe, other)
    assert torch.allclose(both, draw(pipe), atol=1e-4)
    accelerate_pipeline(pipe, [other, config])
    draw(pipe)
    assert effect(pipe).actual_frac == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"density": 0}, r"density must be a number in \(0, 1\]"),
        ({"block": 20}, "block must be one of 16, 32, 64, 128"),
        ({"feature_map": "hedgehog"}, "feature_map must be one of softmax, elu, relu"),
        ({"scope": "none"}, "scope must be one of marginal, all"),
        ({"weights": {"a.weight": torch.zeros(4, 4)}}, "come in pairs"),
        ({"weights": {"a.weight": torch.zeros(4, 4), "a.bias": torch.zeros(5)}}, "come in pairs"),
    ],
)
def test_bad_settings_are_named(setting: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SLAConfig(**setting)


def test_weights_of_another_model_are_refused() -> None:
    pipe = sparse_wan()
    other = {"blocks.7.attn1.weight": torch.zeros(16, 16), "blocks.7.attn1.bias": torch.zeros(16)}
    with pytest.raises(UnsupportedModelError, match=r"layers that it does not have \(blocks.7.attn1\)"):
        accelerate_pipeline(pipe, SLAConfig(weights=other))
    wide = {"blocks.0.attn1.weight": torch.zeros(32, 32), "blocks.0.attn1.bias": torch.zeros(32)}
    with pytest.raises(UnsupportedModelError, match=r"heads of size 32, and those of 'blocks\.0\.attn1' have 16"):
        trainable_sla(pipe.transformer, SLAConfig(weights=wide))
    with pytest.raises(UnsupportedModelError, match="hands q, k and v on"):
        trainable_sla(tiny_pipeline("sana").transformer, SLAConfig())


def test_what_cannot_be_trained_is_an_error_and_no_dense_attention() -> None:
    small = tiny_pipeline("wan").transformer
    before = snapshot(small)
    with pytest.raises(UnsupportedModelError, match=r"heads of 'blocks\.0\.attn1' are of size 12"):
        trainable_sla(small, CONFIG)
    assert_same(snapshot(small), before)
    model = sparse_wan().transformer
    training = trainable_sla(model, CONFIG)
    attention = model.blocks[0].attn1
    tokens = torch.randn(1, 40, attention.to_q.in_features)
    mask = torch.ones(1, 1, 40, 40, dtype=torch.bool)
    assert attention(tokens).shape == tokens.shape
    with pytest.raises(UnsupportedModelError, match="cannot be trained on this call: it is called with an attention"):
        attention(tokens, attention_mask=mask)
    training.remove()
    assert attention(tokens, attention_mask=mask).shape == tokens.shape


@pytest.mark.parametrize("config", [SLAConfig, SparseDConfig])
def test_blocks_may_be_tiles(config) -> None:
    pipe = sparse_wan()
    plain = draw(pipe)
    accelerate_pipeline(pipe, config(density=1.0, block=BLOCK, order="tiles"), strict=True)
    assert torch.allclose(draw(pipe), plain, atol=1e-4)
    pictures = []
    for order in ("raster", "tiles"):
        accelerate_pipeline(pipe, config(density=0.25, block=BLOCK, order=order), strict=True)
        pictures.append(draw(pipe))
    assert (pictures[0] - pictures[1]).abs().max() > 1e-3
    with pytest.raises(ConfigError, match="order must be raster or tiles"):
        config(order="spiral")


def test_training_knows_where_text_and_tiles_are() -> None:
    pipe = sparse_wan()
    training = trainable_sla(pipe.transformer, SLAConfig(density=0.25, block=BLOCK, order="tiles"))
    each = training.layers["blocks.0.attn1"]
    q, k, v = (torch.randn(1, 192, 2, 16, generator=torch.Generator().manual_seed(n)) for n in range(3))
    raster = each(q, k, v)
    training.begin((3, 8, 8))
    assert (each(q, k, v) - raster).abs().max() > 1e-3
    training.begin((3, 8, 8), text=(0, 10))
    assert each.text == (0, 10)
    training.remove()
