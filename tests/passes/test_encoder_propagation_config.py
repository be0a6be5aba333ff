"""What encoder propagation refuses and warns of, and its config."""

from dataclasses import replace
from typing import Any

import pytest
from propagation import KEYS, effect, run
from snapshot import assert_same, snapshot
from tiny import tiny_pipeline

from dit_accel import (
    CompileConfig,
    EncoderPropagationConfig,
    GeneratorSpec,
    StaticCacheConfig,
    TrajectoryConfig,
    accelerate_pipeline,
)
from dit_accel.errors import AccelerationWarning, ConfigError, PlanMismatchError, UnsupportedModelError
from dit_accel.plan.config import config_from_dict


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("sd", replace(KEYS, first_blocks=2), "is a UNet, whose encoder is what it is"),
        ("pixart", replace(KEYS, first_blocks=3), "it has 3 blocks, and 'first_blocks' = 3 leaves none"),
        ("wan22", KEYS, "one denoiser, and this one has transformer, transformer_2"),
        ("wan", replace(KEYS, max_parallel=2), "set max_parallel=1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused(name: str, config: EncoderPropagationConfig, message: str) -> None:
    pipe = tiny_pipeline(name)
    before = snapshot(pipe)
    with pytest.raises(UnsupportedModelError, match=message):
        accelerate_pipeline(pipe, config)
    assert_same(before, snapshot(pipe))


@pytest.mark.parametrize("other", [TrajectoryConfig(), StaticCacheConfig(schedule=GeneratorSpec("full_steps"))])
def test_not_beside_what_decides_or_answers_too(other: Any) -> None:
    with pytest.raises(ConfigError, match="cannot be combined"):
        accelerate_pipeline(tiny_pipeline("sd"), [KEYS, other])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"key_steps": (1, 2)}, "begin with 0"),
        ({"key_steps": (0, 3, 2)}, "ascend"),
        ({"key_steps": (0, 9), "num_steps": 8}, "key step 9 is outside a run of 8"),
        ({"key_steps": (0, 1.5)}, "whole numbers"),
        ({"key_steps": (0,), "every": 2}, "not both"),
        ({"num_steps": 8}, "num_steps says what 'key_steps' are for"),
        ({"max_parallel": 0}, "max_parallel must be a whole number of at least 1"),
        ({"prior_noise": -1}, "prior_noise must be a number from 0 to 1"),
        ({"prior_noise_from": "x"}, "prior_noise_from must be"),
    ],
    ids=str,
)
def test_config_refuses(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EncoderPropagationConfig(**fields)


def test_config_reads_what_it_wrote() -> None:
    for config in (EncoderPropagationConfig(), KEYS, EncoderPropagationConfig(every=4, prior_noise=0.003)):
        assert config_from_dict(config.to_dict(), {}) == config
    assert EncoderPropagationConfig().keys_for(50) == (0, 1, 2, 3, 5, 10, 15, 25, 35)
    assert EncoderPropagationConfig().keys_for(20) == (0, 1, 2, 3, 5, 10, 15)
    assert EncoderPropagationConfig(every=4).keys_for(10) == (0, 4, 8)
    assert KEYS.keys_for(16) == (0, 2, 8)


def test_another_number_of_steps_is_warned_of_and_refused_when_strict() -> None:
    pipe = tiny_pipeline("sd")
    accelerate_pipeline(pipe, KEYS)
    with pytest.warns(AccelerationWarning, match="8 denoiser evaluations and the run has 16"):
        run(pipe, "sd", num_inference_steps=16)
    assert effect(pipe).actual_frac == 1 - 3 / 16
    accelerate_pipeline(pipe, KEYS, strict=True)
    with pytest.raises(PlanMismatchError, match="the run has 16"):
        run(pipe, "sd", num_inference_steps=16)


def test_it_is_never_compiled() -> None:
    pipe = tiny_pipeline("sd")
    with pytest.warns(AccelerationWarning, match="stays uncompiled: 'encoder_propagation' runs some modules"):
        accelerate_pipeline(pipe, [KEYS, CompileConfig()])
