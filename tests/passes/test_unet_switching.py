"""Two UNets in turns: each makes the calls of its own steps, with its own weights, and all of it is undone."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from snapshot import assert_same, snapshot
from tiny import tiny_call, tiny_pipeline

from dit_accel import (
    AccelerationPlan,
    GeneratorSpec,
    StaticCacheConfig,
    TrajectoryConfig,
    UNetSwitchingConfig,
    accelerate_pipeline,
    remove_acceleration,
    summary,
)
from dit_accel.errors import ConfigError, UnsupportedModelError
from dit_accel.passes.assembly_module import add_experts, prune, redundant_layers
from dit_accel.passes.unet_switching import skeleton

STEPS = 4


def run(pipe: Any, name: str = "sd", **more: Any) -> torch.Tensor:
    found: torch.Tensor = pipe(**{**tiny_call(name, num_inference_steps=STEPS), **more}).images
    return found


def assembled(pipe: Any, levels: int = 1, experts: int = 2) -> Any:
    """A UNet as training would leave it: pruned, with experts that differ."""
    unet = copy.deepcopy(pipe.unet)
    prune(unet, redundant_layers(unet, levels))
    add_experts(unet, ("conv_in",), experts)
    with torch.no_grad():
        for parameter in unet.conv_in.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return unet.half().float()  # a plan keeps half precision


@pytest.mark.parametrize("end_frac", [0.5, 1.0])
def test_a_copy_of_the_whole_one_changes_nothing(end_frac: float) -> None:
    pipe = tiny_pipeline("sd")
    plain, before = run(pipe), snapshot(pipe)
    accelerate_pipeline(pipe, UNetSwitchingConfig(end_frac=end_frac))
    assert torch.equal(run(pipe), plain)
    remove_acceleration(pipe)
    assert_same(before, snapshot(pipe))
    assert torch.equal(run(pipe), plain)


def test_equal_experts_change_nothing_but_rounding() -> None:
    pipe = tiny_pipeline("sd")
    plain = run(pipe)
    accelerate_pipeline(pipe, UNetSwitchingConfig(end_frac=1.0, experts={"conv_in": 3, "conv_out": 2}))
    torch.testing.assert_close(run(pipe), plain, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_each_unet_makes_the_calls_of_its_own_steps(name: str, tmp_path: Path) -> None:
    """Against a loop that swaps the pipeline's UNet between the steps by hand."""
    pipe = tiny_pipeline(name)
    whole, small = pipe.unet, assembled(pipe)
    config = UNetSwitchingConfig.of(small, begin_frac=0.25, end_frac=0.75)
    assert config.steps_of(STEPS) == {1, 2} and set(config.experts) == {"conv_in"}
    AccelerationPlan(passes=(config,)).save_pretrained(tmp_path / "plan")
    plan = AccelerationPlan.from_pretrained(tmp_path / "plan")
    assert plan.passes == (config,)

    forward, asked = whole.forward, []

    def by_hand(*args: Any, **kwargs: Any) -> Any:
        index = pipe.scheduler.step_index
        step = 0 if index is None else index  # Euler counts its steps from the first one on
        asked.append(step)
        return (small if step in (1, 2) else forward)(*args, **kwargs)

    if name == "sd":  # DDIM does not count: its timestep tells

        def by_hand(*args: Any, **kwargs: Any) -> Any:  # type: ignore[no-redef]
            step = pipe.scheduler.timesteps.tolist().index(int(args[1]))
            return (small if step in (1, 2) else forward)(*args, **kwargs)

    whole.forward = by_hand
    wanted = run(pipe, name)
    del whole.forward
    plain = run(pipe, name)
    accelerate_pipeline(pipe, plan)
    found = run(pipe, name)
    assert torch.equal(found, wanted) and not torch.equal(found, plain)
    assert "50%" in str(summary(pipe)) and "assembled UNet" in str(summary(pipe))
    remove_acceleration(pipe)
    assert torch.equal(run(pipe, name), plain)


def test_beside_a_cache_that_counts_the_whole_unets_calls_alone() -> None:
    pipe = tiny_pipeline("sd")
    cache = StaticCacheConfig(schedule=GeneratorSpec("every_n", n=2))
    accelerate_pipeline(pipe, [cache, UNetSwitchingConfig.of(assembled(pipe), end_frac=0.5)])
    first = run(pipe)
    assert torch.equal(run(pipe), first), "nothing leaks from run to run"
    accelerate_pipeline(pipe, [UNetSwitchingConfig.of(assembled(pipe), end_frac=0.5)])
    assert not torch.equal(run(pipe), first), "the cache reuses in the whole UNet's steps"


def test_what_does_not_fit_is_named_and_the_pipeline_left_alone() -> None:
    pipe = tiny_pipeline("sd")
    before = snapshot(pipe)
    config = UNetSwitchingConfig.of(assembled(pipe))
    lost = {name: value for name, value in config.weights.items() if name != "conv_out.bias"}
    wide = {**config.weights, "conv_out.bias": torch.zeros(9)}
    fields = {"pruned": config.pruned, "experts": config.experts}
    for bad, words in (
        (UNetSwitchingConfig(weights=lost, **fields), "'conv_out.bias' is in the model only"),
        (UNetSwitchingConfig(weights=wide, **fields), r"'conv_out.bias' is \[4\], in the plan \[9\]"),
        (UNetSwitchingConfig(pruned=("down_blocks.7",)), "it has no layer 'down_blocks.7'"),
        (UNetSwitchingConfig(experts={"conv_norm_out": 2}), "not a convolution"),
    ):
        with pytest.raises(UnsupportedModelError, match=words):
            accelerate_pipeline(pipe, bad)
    with pytest.raises(UnsupportedModelError, match="no UNet"):
        accelerate_pipeline(tiny_pipeline("pixart"), UNetSwitchingConfig())
    with pytest.raises(ConfigError, match="cannot be combined"):
        accelerate_pipeline(pipe, [UNetSwitchingConfig(), TrajectoryConfig(computed=(True, False) * 2)])
    assert_same(before, snapshot(pipe))
    for wrong in ({"begin_frac": 0.6}, {"end_frac": 1.5}, {"end_frac": "half"}, {"experts": {"conv_in": 0}}):
        with pytest.raises(ConfigError, match="unet_switching"):
            UNetSwitchingConfig(**wrong)


def test_the_assembled_one_follows_the_type_of_the_latents() -> None:
    pipe = tiny_pipeline("sd").to(torch.bfloat16)
    accelerate_pipeline(pipe, UNetSwitchingConfig.of(assembled(tiny_pipeline("sd")), end_frac=1.0))
    assert run(pipe).dtype == torch.bfloat16


def test_a_gradient_through_the_assembled_unet_is_its_own() -> None:
    """What is distilled is what is run: the skeleton with the plan's weights has the outputs and gradients of both."""
    pipe = tiny_pipeline("sd")
    small = assembled(pipe)
    config = UNetSwitchingConfig.of(small)
    again = skeleton(pipe.unet, config)
    again.load_state_dict({name: value.float() for name, value in config.weights.items()}, assign=True)
    generator = torch.Generator().manual_seed(0)
    x, text = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 5, 16, generator=generator)
    gradients = []
    for unet in (small, again):
        unet.requires_grad_(True)
        loss = unet(x, 500, encoder_hidden_states=text, return_dict=False)[0].square().mean()
        gradients.append(torch.autograd.grad(loss, list(unet.parameters()), allow_unused=True))
    for mine, other in zip(*gradients, strict=True):
        assert (mine is None and other is None) or torch.equal(mine, other)
    assert sum(found is not None and bool(found.any()) for found in gradients[0]) > 10
