"""The fit of TeaCache's polynomial: what an independent observer would fit, and a plain pipeline afterwards."""

from typing import Any

import numpy as np
import pytest
import torch
from teacache_reference import Skipper
from tiny import tiny_call, tiny_model, tiny_pipeline

from dit_accel import accelerate_pipeline, load_embedded, summary
from dit_accel.calibration.teacache import fit_teacache
from dit_accel.errors import ConfigError, UnsupportedModelError


def run(pipe: Any, name: str, **more: Any) -> torch.Tensor:
    return pipe(**tiny_call(name, **more))[0]


@pytest.mark.parametrize("name", ["emoji-pixart", "emoji-flux", "emoji-wan"])
def test_fits_what_an_independent_observer_sees(name: str) -> None:
    pipe = load_embedded(name)
    pipe.set_progress_bar_config(disable=True)
    small: dict[str, Any] = {"num_frames": 5, "height": 32, "width": 32} if name == "emoji-wan" else {}
    if name == "emoji-pixart":
        small = {"use_resolution_binning": False}

    def calibrate() -> None:
        for seed, prompt in enumerate(("a red apple", "a sad face")):
            generator = torch.Generator().manual_seed(seed)
            pipe(prompt, generator=generator, num_inference_steps=6, output_type="latent", **small)

    observer = Skipper(pipe, threshold=0.0, predict=lambda d: float("inf"))
    try:
        calibrate()
    finally:
        observer.undo()
    inputs, outputs = np.array(observer.seen).T
    fitted = fit_teacache(pipe, calibrate)
    assert len(observer.seen) == 2 * 5 * (2 if name == "emoji-wan" else 1)
    assert fitted.coefficients == tuple(np.polyfit(inputs, outputs, 4).tolist())
    assert fitted.num_steps == 6
    explained = 1 - ((np.polyval(fitted.coefficients, inputs) - outputs) ** 2).sum() / (len(outputs) * outputs.var())
    assert fitted.r2 == pytest.approx(explained, abs=1e-4)
    assert "_dit_accel" not in vars(pipe) and "forward" not in vars(pipe.transformer)


def test_pictures_are_plain_meanwhile_and_the_old_plan_comes_back() -> None:
    pipe = tiny_pipeline("pixart")
    plain = run(pipe, "pixart", num_inference_steps=9)
    accelerate_pipeline(pipe, "balanced")
    made: list[torch.Tensor] = []
    fitted = fit_teacache(pipe, lambda: made.append(run(pipe, "pixart", num_inference_steps=9)), threshold=0.4)
    assert torch.equal(made[0], plain)
    assert fitted.threshold == 0.4
    assert summary(pipe).plan == "balanced"
    accelerate_pipeline(pipe, fitted, strict=True)


def test_each_denoiser_of_a_pair_has_its_own() -> None:
    pipe = tiny_pipeline("wan22")
    fitted = fit_teacache(pipe, lambda: run(pipe, "wan22", num_inference_steps=14))
    assert set(fitted.coefficients) == {"transformer", "transformer_2"}
    assert fitted.coefficients["transformer"] != fitted.coefficients["transformer_2"]
    accelerate_pipeline(pipe, fitted)


def test_runs_of_different_lengths_leave_the_number_open() -> None:
    pipe = tiny_pipeline("pixart")
    fitted = fit_teacache(pipe, lambda: [run(pipe, "pixart", num_inference_steps=steps) for steps in (6, 7)])
    assert fitted.num_steps is None


def test_what_cannot_be_fitted() -> None:
    pipe = tiny_pipeline("pixart")
    with pytest.raises(ConfigError, match=r"0 pairs.*let 'run' draw more"):
        fit_teacache(pipe, lambda: None)
    with pytest.raises(ConfigError, match=r"4 pairs"):
        fit_teacache(pipe, lambda: run(pipe, "pixart", num_inference_steps=5))
    with pytest.raises(UnsupportedModelError, match="it skips a stack"):
        fit_teacache(tiny_pipeline("sd"), lambda: None)
    broken = tiny_pipeline("pixart")
    broken.transformer.proj_out.register_forward_hook(lambda *a: a[-1] * float("nan"))
    with pytest.raises(ConfigError, match="not finite"):
        fit_teacache(broken, lambda: run(broken, "pixart", num_inference_steps=9))
    assert "_dit_accel" not in vars(pipe) and "_dit_accel" not in vars(broken)


def test_a_bare_denoiser_needs_its_scheduler() -> None:
    scheduler = tiny_pipeline("pixart").scheduler
    model = tiny_model("pixart")
    with pytest.raises(ConfigError, match="scheduler"):
        fit_teacache(model, lambda: None)
    with pytest.raises(ConfigError, match="0 pairs"):
        fit_teacache(model, lambda: None, scheduler=scheduler)
