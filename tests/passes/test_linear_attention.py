"""Linear attention: the formula, the mixture, the choice of layers, and the pass in a plan."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from snapshot import assert_same, snapshot
from torch import nn

from dit_accel import AccelerationPlan, LinearAttentionConfig, accelerate_pipeline, remove_acceleration, summary
from dit_accel.errors import ConfigError, UnsupportedModelError
from dit_accel.kernels.attention import dense
from dit_accel.passes.linear_attention_module import (
    LinearAttention,
    MixedAttention,
    MixedLayers,
    count_loss,
    decisiveness_loss,
    hedgehog,
)

sys.path.append(str(Path(__file__).resolve().parent / "attention"))


def wan() -> Any:
    from sparse_wan import sparse_wan

    return sparse_wan()


def draw(pipe: Any) -> torch.Tensor:
    from sparse_wan import draw

    return draw(pipe)


def qkv(tokens: int = 37, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, tokens, 3, 16, generator=generator) for _ in range(3))


def weights(layers: tuple[str, ...] = ("blocks.1.attn1",)) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return {
        f"{layer}.{kind}": torch.randn(16, 16, generator=generator) for layer in layers for kind in ("query", "key")
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 4.0, 16.0])
def test_it_is_the_explicit_form_that_costs_the_square(dtype: torch.dtype, scale: float) -> None:
    q, k, v = (scale * each for each in qkv())
    layer = LinearAttention(16)
    nn.init.normal_(layer.query, std=0.3)
    nn.init.normal_(layer.key, std=0.3)
    scores = torch.einsum("bnhc,bmhc->bhnm", hedgehog(q, layer.query).double(), hedgehog(k, layer.key).double())
    wanted = torch.einsum("bhnm,bmhd->bnhd", scores / scores.sum(-1, keepdim=True), v.double())
    found = layer(q.to(dtype), k.to(dtype), v.to(dtype))
    assert found.dtype == dtype
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    assert (found.double() - wanted).abs().max() <= tolerance * wanted.abs().max()


def test_sums_over_many_keys_are_kept_in_float32() -> None:
    """70,000 equal values: their mean is their value, which a sum in bfloat16 would not find."""
    q, v = torch.zeros(1, 1, 1, 16, dtype=torch.bfloat16), torch.ones(1, 70_000, 1, 16, dtype=torch.bfloat16)
    k = torch.zeros_like(v)
    torch.testing.assert_close(LinearAttention(16)(q, k, v), torch.ones_like(q))


def test_a_mixture_of_all_softmax_is_the_models_own_attention_and_once_decided_only_one_is_computed() -> None:
    q, k, v = qkv()
    mixed = MixedAttention(16)
    mixed.share.data.fill_(1.7)  # clamped
    assert torch.equal(mixed(q, k, v), dense(q, k, v))
    mixed.share.data.fill_(0.25)
    torch.testing.assert_close(mixed(q, k, v), 0.25 * dense(q, k, v) + 0.75 * mixed.linear(q, k, v))
    mixed.decided = True
    assert torch.equal(mixed(q, k, v), mixed.linear(q, k, v))
    mixed.decided = False
    assert torch.equal(mixed(q, k, v), dense(q, k, v))


def test_the_losses_of_the_choice_reach_the_number_that_is_wanted() -> None:
    """Toy layers of different use: those whose softmax is worth least become linear, and all decide."""
    worth = torch.tensor([0.9, 0.1, 0.5, 0.05, 0.7, 0.2])
    share = nn.Parameter(torch.full((6,), 0.9))
    optimizer = torch.optim.Adam([share], lr=0.02)
    for step in range(400):
        r = share.clamp(0, 1)
        power = 20 - 18 * step / 400
        loss = (worth * (1 - r)).sum() + count_loss(r, 3) + decisiveness_loss(r, power)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        share.data.clamp_(0, 1)
    # The layer on the border may sit at one half, where neither loss pulls: that is what ``decide`` is for.
    assert sorted(share.topk(3, largest=False).indices.tolist()) == [1, 3, 5]
    assert (share[[0, 2, 4]] > 0.95).all() and (share[[1, 3]] < 0.05).all()


def test_the_count_is_straight_through() -> None:
    shares = torch.tensor([0.9, 0.2, 0.4], requires_grad=True)
    loss = count_loss(shares, 0)
    assert loss.item() == pytest.approx(4)  # two round to linear
    (gradient,) = torch.autograd.grad(loss, shares)
    torch.testing.assert_close(gradient, torch.full((3,), -4.0))
    assert decisiveness_loss(torch.tensor([0.0, 1.0]), 2.0).item() == pytest.approx(0, abs=1e-6)
    assert decisiveness_loss(torch.tensor([0.5]), 20.0).item() == pytest.approx(1)


def test_layers_are_mixed_only_while_it_lasts_and_put_back() -> None:
    pipe = wan()
    plain, before = draw(pipe), snapshot(pipe)
    mixed = MixedLayers(pipe.transformer)
    assert list(mixed.layers) == ["blocks.0.attn1", "blocks.1.attn1"]
    assert torch.equal(draw(pipe), plain)
    with mixed.acting():
        assert not torch.equal(draw(pipe), plain)
    assert torch.equal(draw(pipe), plain)
    mixed.layers["blocks.1.attn1"].share.data.fill_(0.3)
    assert mixed.decide(1) == ("blocks.1.attn1",)
    assert sorted(mixed.weights()) == ["blocks.1.attn1.key", "blocks.1.attn1.query"]
    with pytest.raises(ConfigError, match="cannot make 3 of 2"):
        mixed.decide(3)
    mixed.remove()
    assert_same(before, snapshot(pipe))


def test_as_a_pass_it_is_what_was_trained_and_is_undone(tmp_path: Path) -> None:
    pipe = wan()
    plain, before = draw(pipe), snapshot(pipe)
    mixed = MixedLayers(pipe.transformer)
    for layer in mixed.layers.values():
        nn.init.normal_(layer.linear.query, std=0.3)
    mixed.layers["blocks.0.attn1"].share.data.fill_(0.0)
    mixed.decide(1)
    with mixed.acting():
        trained = draw(pipe)
    config = LinearAttentionConfig(weights=mixed.weights())
    mixed.remove()
    AccelerationPlan(passes=(config,)).save_pretrained(tmp_path)
    accelerate_pipeline(pipe, AccelerationPlan.from_pretrained(tmp_path), strict=True)
    assert torch.equal(draw(pipe), trained)
    effect = summary(pipe).denoisers[0].effects["linear_attention"]
    assert effect.planned_frac == effect.actual_frac == pytest.approx(0.5)
    remove_acceleration(pipe)
    assert_same(before, snapshot(pipe))
    assert torch.equal(draw(pipe), plain)


def test_models_that_cannot_take_it_are_refused() -> None:
    from tiny import tiny_pipeline

    pipe = wan()
    with pytest.raises(UnsupportedModelError, match=r"no attention 'blocks\.7\.attn1'"):
        accelerate_pipeline(pipe, LinearAttentionConfig(weights=weights(("blocks.7.attn1",))))
    small = {name: weight[:8, :8] for name, weight in weights().items()}
    with pytest.raises(UnsupportedModelError, match="heads of size 8"):
        accelerate_pipeline(pipe, LinearAttentionConfig(weights=small))
    with pytest.raises(UnsupportedModelError, match="text is part of its self-attention"):
        accelerate_pipeline(tiny_pipeline("flux"), LinearAttentionConfig())


@pytest.mark.parametrize(
    "given", [{"a.query": torch.zeros(2, 2)}, {"a.query": torch.zeros(2, 3), "a.key": torch.zeros(2, 3)}]
)
def test_weights_that_do_not_go_together_are_named(given: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ConfigError, match="come in pairs"):
        LinearAttentionConfig(weights=given)
