"""Published techniques found on recorded runs: each a plan in one call; key steps against brute force."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_call, tiny_pipeline

from dit_accel import AccelerationPlan, EncoderPropagationConfig, accelerate_pipeline, summary
from dit_accel.calibration.curves import record_curves
from dit_accel.calibration.techniques import TECHNIQUES, calibrated_key_steps, technique_plan
from dit_accel.errors import ConfigError
from dit_accel.families.targets import find_targets

STEPS = 6


def draw(pipe: Any, name: str, seed: int = 0) -> torch.Tensor:
    return torch.as_tensor(pipe(**tiny_call(name, seed=seed, num_inference_steps=STEPS))[0])


@pytest.mark.parametrize("model", ["sd", "pixart"])
@pytest.mark.parametrize("name", TECHNIQUES)
def test_each_is_a_plan_in_one_call(name: str, model: str, tmp_path: Any) -> None:
    pipe = tiny_pipeline(model)
    plan = technique_plan(pipe, name, lambda: draw(pipe, model, 1), share=0.5)
    assert plan.name == name and "not certified" in plan.notes[0]
    assert plan == technique_plan(pipe, name, lambda: draw(pipe, model, 1), share=0.5)
    plain = draw(pipe, model)
    accelerate_pipeline(pipe, plan, strict=True)
    made = draw(pipe, model)
    assert torch.isfinite(made).all() and not torch.equal(made, plain)
    (effect,) = summary(pipe).denoisers[0].effects.values()
    assert 0.2 < effect.actual_frac <= 0.6
    plan.save_pretrained(tmp_path)
    assert AccelerationPlan.from_pretrained(tmp_path) == plan


@pytest.mark.parametrize(("model", "first"), [("sd", None), ("pixart", 2)])
def test_key_steps_are_the_nearest_of_all(model: str, first: int | None) -> None:
    """Every choice of key steps, with distances of outputs that were recorded by hooks."""
    pipe = tiny_pipeline(model)
    target = find_targets(pipe)[0]
    curves = record_curves(pipe, lambda: draw(pipe, model), kinds=("conv_in", "down_block", "mid_block", "block"))
    paths = {
        "sd": ["conv_in", "down_blocks.0", "down_blocks.1", "down_blocks.2", "mid_block"],
        "pixart": ["transformer_blocks.0", "transformer_blocks.1"],
    }[model]
    seen: dict[str, list[torch.Tensor]] = {path: [] for path in paths}
    handles = []
    for path in paths:

        def hook(module: Any, args: Any, kwargs: Any, output: Any, path: str = path) -> None:
            outputs = [output] if isinstance(output, torch.Tensor) else [output[0], *output[1]]
            if model == "pixart":
                outputs = [outputs[0] - args[0]]
            seen[path].append(torch.cat([each.flatten() for each in outputs]))

        handles.append(target.denoiser.get_submodule(path).register_forward_hook(hook, with_kwargs=True))
    draw(pipe, model)
    for handle in handles:
        handle.remove()

    def cost(keys: tuple[int, ...]) -> float:
        total = 0.0
        for path in paths:
            for step in range(STEPS):
                kept, true = seen[path][max(key for key in keys if key <= step)], seen[path][step]
                scale = float(true.abs().mean()) if model == "sd" else 1.0
                total += float((kept - true).abs().mean()) / scale
        return total

    config = calibrated_key_steps(curves, target, num_keys=3, first_blocks=first)
    assert config.key_steps is not None and config.num_steps == STEPS and config.first_blocks == first
    ways = [(0, *rest) for rest in itertools.combinations(range(1, STEPS), 2)]
    assert cost(config.key_steps) == pytest.approx(min(cost(way) for way in ways), rel=1e-4)
    assert len(ways) == 10 and np.ptp([cost(way) for way in ways]) > 0


def test_refused() -> None:
    pipe = tiny_pipeline("sd")
    with pytest.raises(ConfigError, match="unknown technique 'smooth'"):
        technique_plan(pipe, "smooth", lambda: None)
    with pytest.raises(ConfigError, match="'share' must be above 0"):
        technique_plan(pipe, "smoothcache", lambda: None, share=1.0)
    with pytest.raises(ConfigError, match="has 2"):
        technique_plan(tiny_pipeline("wan22"), "smoothcache", lambda: None)
    curves = record_curves(pipe, lambda: draw(pipe, "sd"), kinds=("model",))
    with pytest.raises(ConfigError, match="no module of the encoder of 'unet' was recorded"):
        calibrated_key_steps(curves, find_targets(pipe)[0], num_keys=2)
    assert EncoderPropagationConfig().key_steps is None
