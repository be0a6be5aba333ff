"""Calibration of pipelines in bfloat16 and float16, which is what GPUs run."""

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from quick_calibration import no_networks, quick, quick_pipeline
from tiny import tiny_call, tiny_pipeline

from dit_accel import accelerate_pipeline
from dit_accel.calibration import judging
from dit_accel.calibration.fit import fit
from dit_accel.calibration.gains import measure_gains
from dit_accel.calibration.recording import record
from dit_accel.errors import UnsupportedModelError

STEPS = 6
BF16, FP16 = torch.bfloat16, torch.float16


def drawing(pipe: Any, name: str, dtype: torch.dtype) -> Any:
    def draw(first: int, last: int) -> torch.Tensor:
        call = tiny_call(name, num_inference_steps=STEPS)
        call["generator"] = torch.Generator().manual_seed(first)
        tensors = {key: value for key, value in call.items() if isinstance(value, torch.Tensor)}
        call |= {key: value.to(dtype) for key, value in tensors.items() if value.is_floating_point()}
        out = pipe(**call)[0]
        return out if isinstance(out, torch.Tensor) else torch.stack(list(out))

    return draw


@pytest.mark.parametrize(
    ("name", "dtype", "branches", "make"),
    [
        ("flux", BF16, False, None),
        ("flux", FP16, False, None),
        ("pixart", BF16, False, None),
        ("pixart", BF16, True, None),
        ("sd", BF16, False, None),
        ("sd", FP16, True, None),
        ("sd", BF16, False, diffusers.UniPCMultistepScheduler),
        ("sd", BF16, False, diffusers.EulerAncestralDiscreteScheduler),
    ],
)
def test_a_fit_comes_near_the_recorded_run_and_the_pass_repeats_it(
    name: str, dtype: torch.dtype, branches: bool, make: Any
) -> None:
    pipe = tiny_pipeline(name).to(dtype)
    if make is not None:
        pipe.scheduler = make()
    draw = drawing(pipe, name, dtype)
    reference = record(pipe, draw, 0, 1)
    assert reference.latents[0].dtype == dtype
    fitted = fit(pipe, draw, reference, (0, 2, 4), 0, 1, branches=branches)
    assert fitted.errors.max() < 0.2
    accelerate_pipeline(pipe, fitted.config)
    again = (draw(0, 1) - fitted.pictures).float()
    assert float(again.norm()) < 0.1 * float(fitted.pictures.float().norm())


def test_clipping_is_still_refused() -> None:
    pipe = tiny_pipeline("sd").to(BF16)
    pipe.scheduler = diffusers.DDIMScheduler(clip_sample=True, clip_sample_range=0.01)
    draw = drawing(pipe, "sd", BF16)
    with pytest.raises(UnsupportedModelError, match="not linear"):
        fit(pipe, draw, record(pipe, draw, 0, 1), (0, 2, 4), 0, 1)


def test_gains_are_those_of_errors_and_not_of_rounding() -> None:
    found = []
    for dtype in (torch.float32, BF16):
        pipe = tiny_pipeline("sd").to(dtype)
        draw = drawing(pipe, "sd", dtype)
        found.append(measure_gains(pipe, draw, record(pipe, draw, 0, 1), 1, probes=3))
    np.testing.assert_allclose(found[1], found[0], rtol=0.15)


def test_a_whole_calibration_ends_in_guarded_plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("deap")
    monkeypatch.setattr(judging, "available_perceptual", no_networks)
    found = quick(quick_pipeline().to(BF16), tmp_path, branches=True, generations=0)
    assert found.front and not found.skipped
    (config,) = found.plan(found.front[0]).passes
    assert config.guard and np.isfinite(config.guard).all()
