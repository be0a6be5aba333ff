"""Every published technique runs by its name where it can, says that it is not certified, and refuses elsewhere."""

from typing import Any

import pytest
import torch
from tiny import tiny_call, tiny_pipeline

from dit_accel import accelerate_pipeline, remove_acceleration, summary
from dit_accel.calibration.techniques import TECHNIQUES as RECORDED_TECHNIQUES
from dit_accel.errors import ConfigError, DitAccelError
from dit_accel.session.presets import PRESETS
from dit_accel.session.session import session_of
from dit_accel.session.technique_presets import RECORDED, TECHNIQUES

MODELS = {"deepcache": "sd", "faster_diffusion": "sd", "a_sdm": "sd", "fora": "pixart"}


def draw(pipe: Any, model: str) -> torch.Tensor:
    return torch.as_tensor(pipe(**tiny_call(model, num_inference_steps=8))[0])


@pytest.mark.parametrize("name", TECHNIQUES)
def test_runs_by_its_name(name: str) -> None:
    model = MODELS[name]
    pipe = tiny_pipeline(model)
    plain = draw(pipe, model)
    accelerate_pipeline(pipe, name)
    made = draw(pipe, model)
    assert torch.isfinite(made).all() and not torch.equal(made, plain)
    found = summary(pipe)
    session = session_of(pipe)
    assert found.plan == name and session is not None and "not certified" in session.plan.notes[0]
    (effect,) = found.denoisers[0].effects.values()
    assert effect.actual_frac == pytest.approx(effect.planned_frac, abs=0.2) and effect.actual_frac > 0
    remove_acceleration(pipe)
    assert torch.equal(draw(pipe, model), plain)


@pytest.mark.parametrize("name", ["deepcache", "a_sdm"])
def test_those_for_unets_say_so(name: str) -> None:
    pipe = tiny_pipeline("pixart")
    with pytest.raises(DitAccelError, match="is for UNets"):
        accelerate_pipeline(pipe, name)


@pytest.mark.parametrize("name", RECORDED)
def test_those_that_need_a_recording_say_how_to_get_one(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"technique_plan\(pipe, '{name}', run\)"):
        accelerate_pipeline(tiny_pipeline("pixart"), name)
    assert name in RECORDED_TECHNIQUES


def test_they_stand_apart_from_our_own() -> None:
    ours = [name for name in PRESETS if not PRESETS.get(name).paper]
    assert set(RECORDED) == set(RECORDED_TECHNIQUES) - set(TECHNIQUES)
    assert ours == list(PRESETS)[: len(ours)] and not set(ours) & set(TECHNIQUES)
