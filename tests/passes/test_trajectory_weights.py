"""Weights of more than one kind: between guidance scales, over channels, for one guidance branch alone."""

from dataclasses import replace

import pytest
import torch
from tiny import tiny_pipeline
from trajectory_runs import HALF, STEPS, effect, run, table

from dit_accel import (
    GeneratorSpec,
    StaticCacheConfig,
    TrajectoryConfig,
    accelerate_pipeline,
    remove_acceleration,
    to_scheduler,
)
from dit_accel.errors import AccelerationWarning, ConfigError, PlanMismatchError


def by_guidance() -> TrajectoryConfig:
    """Of fits at scales 2, 4 and 8: the last output, the one before, and half of the last one."""
    tables = [
        table({step: {max(0, step - 1 - back): size} for step in range(1, STEPS, 2)})
        for back, size in ((0, 1.0), (2, 1.0), (0, 0.5))
    ]
    return replace(HALF, weights=tables[1], guidance=(2, 4, 8), guided_weights=torch.stack(tables))


def test_between_guidance_scales_the_weights_are_interpolated() -> None:
    config = by_guidance()
    assert config.guided_weights is not None
    below, own, above = config.guided_weights
    wanted = {2: below, 3: (below + own) / 2, 4: own, 7: own / 4 + above * 3 / 4, 8: above}
    wanted |= {1: 1.5 * below - 0.5 * own, -10: 2 * below - own, 12: 2 * above - own, 99: 2 * above - own}
    for scale, weights in wanted.items():
        torch.testing.assert_close(config.weights_at(scale), weights)
    assert config.weights_at(None) is config.weights
    assert config.at_guidance(3).guidance == () and torch.equal(config.at_guidance(3).weights, config.weights_at(3))


@pytest.mark.parametrize("name", ["pixart", "sd", "flux", "wan"])
def test_a_run_takes_the_weights_of_its_guidance_scale(name: str) -> None:
    pipe, config = tiny_pipeline(name), by_guidance()
    for scale in (3.0, 4.0, 6.5):
        accelerate_pipeline(pipe, config, strict=True)
        interpolated = run(pipe, name, guidance_scale=scale)
        accelerate_pipeline(pipe, config.at_guidance(scale))
        assert torch.equal(run(pipe, name, guidance_scale=scale), interpolated)


def test_a_second_expert_has_a_guidance_scale_of_its_own() -> None:
    pipe = tiny_pipeline("wan22")
    accelerate_pipeline(pipe, by_guidance())
    with pytest.warns(AccelerationWarning, match="of 'transformer_2' is 9, and the trajectory plan was fitted from 2"):
        run(pipe, "wan22", guidance_scale=3.0, guidance_scale_2=9.0)


def test_beyond_the_guidance_scales_it_warns_or_refuses() -> None:
    pipe = tiny_pipeline("pixart")
    accelerate_pipeline(pipe, by_guidance())
    with pytest.warns(AccelerationWarning, match="is 9, and the trajectory plan was fitted from 2 to 8"):
        assert torch.isfinite(run(pipe, "pixart", guidance_scale=9.0)).all()
    accelerate_pipeline(pipe, by_guidance(), strict=True)
    with pytest.raises(PlanMismatchError, match="fitted from 2 to 8"):
        run(pipe, "pixart", guidance_scale=1.5)
    with pytest.raises(ConfigError, match="does not see the scale"):
        to_scheduler(by_guidance(), pipe.scheduler)


@pytest.mark.parametrize(("name", "channels"), [("pixart", 4), ("flux", 16), ("wan", 4)])
def test_filters_mix_the_channels_of_the_last_output(name: str, channels: int) -> None:
    """A filter that only scales is the same as a greater weight, in both forms."""
    pipe = tiny_pipeline(name)
    rows = {step: {step - 1: 0.7} for step in range(1, STEPS, 2)}
    heavier = {step: {step - 1: 1.2} for step in range(1, STEPS, 2)}
    filters = torch.zeros(STEPS, channels, channels, dtype=torch.float64)
    filters[1::2] = 0.5 * torch.eye(channels)
    config = replace(HALF, weights=table(rows), filters=filters)
    made = []
    for plan in (replace(HALF, weights=table(heavier)), config):
        accelerate_pipeline(pipe, plan)
        made.append(run(pipe, name))
        remove_acceleration(pipe)
    torch.testing.assert_close(made[1], made[0], rtol=1e-3, atol=1e-3)
    filters[1::2, 0, 1] = 0.5
    accelerate_pipeline(pipe, replace(config, filters=filters))
    mixed = run(pipe, name)
    remove_acceleration(pipe)
    assert not torch.allclose(mixed, made[0], rtol=1e-3, atol=1e-3)
    pipe.scheduler = to_scheduler(replace(config, filters=filters), pipe.scheduler)
    torch.testing.assert_close(run(pipe, name), mixed, rtol=2e-3, atol=2e-3)


def halved() -> TrajectoryConfig:
    """Every other evaluation whole, of the others the conditional branch alone: the last difference is kept."""
    none = torch.zeros(STEPS, STEPS + 2, dtype=torch.float64)
    cross = torch.zeros(STEPS, 2 * STEPS + 2, dtype=torch.float64)
    for step in range(1, STEPS, 2):
        cross[step, [step - 1, STEPS + step - 1, STEPS + step]] = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    conditional = tuple(step % 2 == 1 for step in range(STEPS))
    return replace(HALF, weights=none, unconditional=none, conditional=conditional, cross=cross)


def test_half_calls_and_kept_modules_exclude_each_other_in_one_batch() -> None:
    reuse = StaticCacheConfig(schedule=GeneratorSpec("full_steps", n=4))
    with pytest.raises(ConfigError, match="decides what is computed in each call"):
        accelerate_pipeline(tiny_pipeline("pixart"), [halved(), reuse])


@pytest.mark.parametrize("name", ["pixart", "wan"])
def test_without_guidance_there_are_no_half_calls(name: str) -> None:
    pipe = tiny_pipeline(name)
    accelerate_pipeline(pipe, halved())
    run(pipe, name)
    assert effect(pipe).actual_frac == effect(pipe).planned_frac == 0.25
    plain = tiny_pipeline(name)
    assert torch.equal(run(pipe, name, guidance_scale=1.0), run(plain, name, guidance_scale=1.0))
