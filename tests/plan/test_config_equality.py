"""Configs compare by value, those that hold tensors too: a plan read back from its file is the plan that was saved."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dit_accel import AccelerationPlan, GeneratorSpec, StaticCacheConfig
from dit_accel.passes.trajectory.config import TrajectoryConfig
from dit_accel.plan.config import PassConfig

WEIGHTS = torch.tensor([[0, 0, 0, 0], [0.5, 0, 0, 0.5]], dtype=torch.float64)
CONFIGS = [
    TrajectoryConfig(computed=(True, False), weights=WEIGHTS),
    StaticCacheConfig(schedule=GeneratorSpec("full_steps", n=2)),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.type_name)
def test_saved_and_read_is_equal(config: PassConfig, tmp_path: Path) -> None:
    plan = AccelerationPlan(passes=(config,))
    plan.save_pretrained(tmp_path)
    again = AccelerationPlan.from_pretrained(tmp_path)
    assert again == plan and hash(again.passes[0]) == hash(config)


@pytest.mark.parametrize(
    "other",
    [
        TrajectoryConfig(computed=(True, False), weights=2 * WEIGHTS),
        TrajectoryConfig(computed=(True, False), weights=WEIGHTS.float()),
        TrajectoryConfig(computed=(True, False)),
        replace(CONFIGS[0], levels=(2.0, 1.0)),
        CONFIGS[1],
        "trajectory",
    ],
    ids=["weights", "dtype", "no weights", "levels", "type", "no config"],
)
def test_another_is_not(other: object) -> None:
    assert CONFIGS[0] != other
