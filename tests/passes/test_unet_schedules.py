"""Schedules of UNets against hooks that put each kept output in place by hand."""

from typing import Any

import pytest
import torch
from tiny import tiny_call, tiny_pipeline

from dit_accel import GeneratorSpec, StaticCacheConfig, accelerate_pipeline, summary
from dit_accel.families.targets import find_targets

STEPS = 6


def draw(pipe: Any, name: str) -> torch.Tensor:
    return torch.as_tensor(pipe(**tiny_call(name, num_inference_steps=STEPS))[0])


SPECS = {
    "deepcache": GeneratorSpec("deepcache", n=3),
    "deepcache wider": GeneratorSpec("deepcache", n=3, branch=1),
    "deepcache quadratic": GeneratorSpec("deepcache", n=2, power=1.4, centre=2),
    "inherited blocks": GeneratorSpec("inheritance", level="block", n=2),
    "inherited layers": GeneratorSpec("inheritance", level="layer", mode="early", n=2),
    "inherited units": GeneratorSpec("inheritance", level="unit", mode="late", n=2),
    "inherited everywhere": GeneratorSpec("inheritance", level="unit", n=3, outermost=0),
    "encoder propagation": GeneratorSpec("encoder_propagation", key_steps=[0, 2]),
}


@pytest.mark.parametrize("name", ["sd", "sdxl"])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_reuse_is_what_hooks_would_do(spec: GeneratorSpec, name: str) -> None:
    """By hand every module computes at every step, and then what it gave at its last full step stands in its place."""
    pipe = tiny_pipeline(name)
    plain = draw(pipe, name)
    target = find_targets(pipe)[0]
    schedule = spec.build(target.layout.graph, STEPS)
    kept: dict[str, Any] = {}
    calls: dict[str, int] = {}
    handles = []
    for site in target.layout.sites:
        row = schedule.recompute.get(site.info.id)
        if row is None:
            continue

        def hook(module: Any, args: Any, output: Any, path: str = site.path, row: Any = row) -> Any:
            step = calls[path] = calls.get(path, -1) + 1
            if row[step]:
                kept[path] = output
            return kept[path]

        handles.append(target.denoiser.get_submodule(site.path).register_forward_hook(hook))
    by_hand = draw(pipe, name)
    for handle in handles:
        handle.remove()
    assert not torch.equal(by_hand, plain)
    accelerate_pipeline(pipe, StaticCacheConfig(schedule=spec, invariants=False))
    assert torch.equal(draw(pipe, name), by_hand)
    assert summary(pipe).denoisers[0].effects["static_cache"].actual_frac > 0


@pytest.mark.parametrize("level", ["block", "layer", "unit"])
def test_every_step_active_changes_nothing(level: str) -> None:
    pipe = tiny_pipeline("sd")
    plain = draw(pipe, "sd")
    spec = GeneratorSpec("inheritance", level=level, n=1)
    accelerate_pipeline(pipe, StaticCacheConfig(schedule=spec))
    assert torch.equal(draw(pipe, "sd"), plain)
