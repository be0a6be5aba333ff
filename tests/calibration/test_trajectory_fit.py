"""The fit on the accelerated run itself, the choice of steps, and the search around both."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from tiny import tiny_call, tiny_pipeline

from dit_accel import TrajectoryConfig, accelerate_pipeline, load_embedded, remove_acceleration, summary
from dit_accel.calibration.calibrate import calibrate
from dit_accel.calibration.choose import Gaps, choose_steps, gram_of
from dit_accel.calibration.evolve import surrogate
from dit_accel.calibration.fit import fit
from dit_accel.calibration.front import Point, front_of, pick
from dit_accel.calibration.gains import measure_gains
from dit_accel.calibration.guard import with_guard
from dit_accel.calibration.guidance import over_guidance
from dit_accel.calibration.recording import Recording, record
from dit_accel.calibration.regression import ridge_toward
from dit_accel.errors import AccelerationWarning, ConfigError, UnsupportedModelError
from dit_accel.families.pipeline import find_denoisers
from dit_accel.pipelines.generation import GenerationSettings

STEPS = 8
HALF = (0, 2, 4, 6)


def drawing(pipe: Any, name: str, **more: Any) -> Any:
    def draw(first: int, last: int) -> torch.Tensor:
        call = tiny_call(name, **{"num_inference_steps": STEPS, **more})
        call["generator"] = torch.Generator().manual_seed(first)
        out = pipe(**call)[0]
        return out if isinstance(out, torch.Tensor) else torch.stack(list(out))

    return draw


def recorded(name: str, pipe: Any, **more: Any) -> tuple[Any, Recording]:
    draw = drawing(pipe, name, **more)
    return draw, record(pipe, draw, 0, 1)


@pytest.mark.parametrize("name", ["pixart", "flux", "wan", "sd"])
def test_a_recording_is_what_the_scheduler_saw(name: str) -> None:
    pipe = tiny_pipeline(name)
    plain = drawing(pipe, name)(0, 1)
    draw, reference = recorded(name, pipe)
    assert torch.equal(reference.pictures, plain)
    assert len(reference.latents) == len(reference.outputs) + 1 == STEPS + 1
    assert len(reference.levels) == STEPS and reference.conditions.num_steps == STEPS
    assert torch.equal(draw(0, 1), plain)


@pytest.mark.parametrize("name", ["pixart", "flux", "wan", "sd"])
def test_the_fitted_run_is_on_the_recorded_one_and_the_pass_repeats_it(name: str) -> None:
    """With one prompt and several free weights, the latents come back nearly onto the recorded ones."""
    pipe = tiny_pipeline(name)
    draw, reference = recorded(name, pipe)
    fitted = fit(pipe, draw, reference, HALF, 0, 1)
    ended: list[torch.Tensor] = []
    for plan in (fitted.config, TrajectoryConfig(computed=fitted.config.computed)):
        accelerate_pipeline(pipe, plan)
        ended.append(draw(0, 1))
        remove_acceleration(pipe)
    by_weights, by_theory = ended
    torch.testing.assert_close(by_weights, fitted.pictures, rtol=1e-3, atol=1e-3)
    off = (by_weights - reference.pictures).norm(), (by_theory - reference.pictures).norm()
    assert off[0] < off[1]


def test_no_answer_reaches_over_the_boundary_between_two_denoisers() -> None:
    pipe = tiny_pipeline("wan22")
    draw, reference = recorded("wan22", pipe)
    boundary = reference.denoisers.index(reference.denoisers[-1])
    assert 0 < boundary < STEPS
    fitted = fit(pipe, draw, reference, {0}, 0, 1)
    assert fitted.config.computed is not None and fitted.config.computed[boundary]
    assert fitted.config.weights is not None
    assert not fitted.config.weights[boundary:, :boundary].any()


def test_a_step_that_is_not_linear_is_refused() -> None:
    pipe = tiny_pipeline("sd")
    pipe.scheduler = diffusers.DDIMScheduler(clip_sample=True, clip_sample_range=0.01)
    draw, reference = recorded("sd", pipe)
    with pytest.raises(UnsupportedModelError, match="not linear"):
        fit(pipe, draw, reference, HALF, 0, 1)


@pytest.mark.parametrize(
    "make",
    [
        diffusers.DDIMScheduler,
        diffusers.DPMSolverMultistepScheduler,
        diffusers.UniPCMultistepScheduler,
        diffusers.HeunDiscreteScheduler,
        diffusers.PNDMScheduler,
        diffusers.EulerAncestralDiscreteScheduler,
    ],
)
def test_probing_leaves_every_scheduler_as_it_was(make: Any) -> None:
    """A run that is listened to, and probed at every answer, ends as the same run by the pass does."""
    pipe = tiny_pipeline("sd")
    settings = {"clip_sample": False} if make is diffusers.DDIMScheduler else {}
    pipe.scheduler = make(**settings)
    draw, reference = recorded("sd", pipe)
    steps = set(range(0, reference.num_steps, 2))
    fitted = fit(pipe, draw, reference, steps, 0, 1)
    accelerate_pipeline(pipe, fitted.config)
    torch.testing.assert_close(draw(0, 1), fitted.pictures, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["flux", "wan"])
def test_the_guard_keeps_still_where_it_was_calibrated_and_speaks_up_elsewhere(name: str) -> None:
    pipe = tiny_pipeline(name)
    draw, reference = recorded(name, pipe)
    config = with_guard(pipe, draw, fit(pipe, draw, reference, HALF, 0, 1).config, 0, 1)
    assert not config.guarded
    assert [bool(each) for each in config.guard] == [step in HALF and step > 0 for step in range(STEPS)]
    accelerate_pipeline(pipe, replace(config, guarded=True))
    draw(0, 1)
    assert "guard" not in str(summary(pipe))
    torch.manual_seed(0)
    for parameter in find_denoisers(pipe)[0][1].parameters():
        parameter.data += 0.3 * parameter.data.std(correction=0) * torch.randn_like(parameter)
    with pytest.warns(AccelerationWarning, match="the guard of 'transformer' found evaluation"):
        draw(0, 1)
    assert "the guard" in str(summary(pipe))


@pytest.mark.parametrize("branches", [False, True])
def test_weights_are_fitted_at_further_guidance_scales(branches: bool) -> None:
    pipe = tiny_pipeline("pixart")
    draw, reference = recorded("pixart", pipe, guidance_scale=3.0)
    config = with_guard(pipe, draw, fit(pipe, draw, reference, HALF, 0, 1, branches=branches).config, 0, 1)

    def draw_at(scale: float) -> Any:
        return drawing(pipe, "pixart", guidance_scale=scale)

    ranged = over_guidance(pipe, draw_at, config, 3.0, (6.0, 1.5), 1)
    assert ranged.guidance == (1.5, 3.0, 6.0) and torch.equal(ranged.weights_at(3.0), config.weights)
    assert all(wide >= own for wide, own in zip(ranged.guard, config.guard, strict=True))
    far = draw_at(6.0)
    there = fit(pipe, far, record(pipe, far, 0, 1), HALF, 0, 1, branches=branches).config
    assert ranged.at_guidance(6.0) == replace(there, guard=ranged.guard)
    with pytest.raises(ConfigError, match="give another scale"):
        over_guidance(pipe, draw_at, config, 3.0, (3.0,), 1)
    with pytest.raises(ConfigError, match="has none that can be told"):
        over_guidance(pipe, draw_at, config, None, (3.0,), 1)


def test_ridge_leads_to_the_prior_where_prompts_disagree() -> None:
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(6, 3, 50))
    truth = np.array([0.5, 0.25, 0.25])
    right = np.einsum("prd,pd->pr", columns, np.einsum("prd,r->pd", columns, truth))
    gram = np.einsum("prd,psd->prs", columns, columns)
    found, ridge = ridge_toward(gram, right, np.array([1.0, 0.0, 0.0]))
    assert np.allclose(found, truth, atol=1e-4) and ridge <= 1e-4
    gram = np.broadcast_to(np.eye(3), (200, 3, 3))
    apart = rng.normal(size=(200, 3)) * 5
    noisy = gram @ np.array([1.0, 0.0, 0.0]) + apart - apart.mean(0)
    found, ridge = ridge_toward(gram, noisy, np.array([1.0, 0.0, 0.0]), ridges=(1e-6, 1e3))
    assert ridge == 1e3 and np.allclose(found, [1, 0, 0], atol=0.1)


def test_gains_are_of_what_is_left_at_the_end() -> None:
    pipe = tiny_pipeline("flux")
    draw, reference = recorded("flux", pipe)
    gains = measure_gains(pipe, draw, reference, 1, probes=4)
    assert len(gains) == STEPS and gains[-1] == 1.0 and all(gain > 0 for gain in gains)


def smooth_gram(steps: int) -> Any:
    """Of a made-up run: latents and outputs as smooth curves in a few dimensions."""
    t = np.linspace(0, 1, steps + 1)
    basis = np.stack([np.ones_like(t), t, t**2, np.sin(5 * t), np.exp(-6 * t), np.cos(9 * t)], 1)
    latents = np.cumsum(basis, 0) / steps
    items = np.concatenate([latents, basis[:steps]])
    return items @ items.T


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_a_wide_beam_finds_what_brute_force_finds(count: int) -> None:
    gaps = Gaps(smooth_gram(8), np.linspace(0.2, 1.0, 8).tolist())
    every = [(0, *rest) for rest in itertools.combinations(range(1, 8), count - 1)]
    best = min(every, key=lambda steps: surrogate(gaps, steps))
    found = choose_steps(gaps, count, width=10_000)[0]
    assert found.cost == pytest.approx(surrogate(gaps, best)) and found.computed == best


def test_boundaries_are_always_computed() -> None:
    gaps = Gaps(smooth_gram(8), [1.0] * 8, boundaries=(5,))
    assert all(5 in choice.computed for count in (2, 3, 5) for choice in choose_steps(gaps, count))


def test_the_gram_matrix_is_of_all_latents_and_outputs() -> None:
    pipe = tiny_pipeline("pixart")
    _, reference = recorded("pixart", pipe)
    gram = gram_of(reference)
    assert gram.shape == (2 * STEPS + 1, 2 * STEPS + 1)
    assert gram[3, STEPS + 3] == pytest.approx(float((reference.latents[3] * reference.outputs[2]).sum()), rel=1e-4)


POINTS = [
    Point(computed=(0,), num_steps=4, psnr_db=20, worst_db=10, st_lpips=0.2),
    Point(computed=(0, 2), num_steps=4, psnr_db=30, worst_db=20, st_lpips=0.05),
    Point(computed=(0, 3), num_steps=4, psnr_db=40, worst_db=30, st_lpips=0.02),
    Point(computed=(0, 1, 3), num_steps=4, psnr_db=39, worst_db=20, st_lpips=0.03),
]


def test_the_front_and_how_to_choose_from_it() -> None:
    front = front_of(POINTS)
    assert [point.computed for point in front] == [(0,), (0, 3)]
    assert pick(front, max_lpips=0.05).computed == (0, 3)
    assert pick(front, min_speedup=2).computed == (0, 3)
    assert pick(front, min_speedup=3).computed == (0,)
    blurred = Point(computed=(0, 1), num_steps=4, psnr_db=25, worst_db=20, st_lpips=0.01)
    assert pick([*POINTS, blurred], max_lpips=0.015) == blurred  # by decibel another one of its size is better
    with pytest.raises(ConfigError, match=r"2\.00x is reachable at most"):
        pick(front, max_lpips=0.05, min_speedup=3)
    with pytest.raises(ConfigError, match=r"the best has 40\.0 dB"):
        pick(front, min_psnr_db=50)


@pytest.fixture(scope="module")
def flux() -> Any:
    pipe = load_embedded("emoji-flux")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def searched(pipe: Any, folder: Path, **more: Any) -> Any:
    return calibrate(
        pipe,
        folder,
        model="emoji-flux",
        settings=GenerationSettings(num_inference_steps=6),
        num_prompts=3,
        generations=2,
        **more,
    )


@pytest.mark.slow
def test_stopped_and_called_again_ends_as_if_never_stopped(flux: Any, tmp_path: Path) -> None:
    pytest.importorskip("deap")
    whole = searched(flux, tmp_path / "whole")

    class Stopped(Exception):
        pass

    def stop_at(count: int) -> Any:
        def stop(what: str, left_s: float, calibration: Any) -> None:
            if len(calibration.points) == count:
                raise Stopped

        return stop

    for count in (2, 5):
        with pytest.raises(Stopped):
            searched(flux, tmp_path / "parts", on_progress=stop_at(count))
    parts = searched(flux, tmp_path / "parts")
    assert parts.points == whole.points and parts.generations == whole.generations == 2
    plan = parts.plan(parts.front[-1])
    assert plan.passes[0].guard and not plan.passes[0].guarded
    accelerate_pipeline(flux, plan)
    remove_acceleration(flux)
    with pytest.raises(ConfigError, match="seed"):
        searched(flux, tmp_path / "parts", seed=1)


def test_fitted_weights_beat_the_last_output_and_keep_the_guard_still(flux: Any) -> None:
    """On a trained model, at the same computed steps, on prompts that nothing was fitted to.

    Theory in noise estimates, which combines earlier latents too, is as good here as a fit to six prompts without.
    """
    from dit_accel.pipelines.generation import generate

    settings = GenerationSettings(num_inference_steps=12)
    words = ["a red apple", "a sad face", "a green tree", "a dog", "a yellow star", "a blue car", "a cat", "the sun"]

    def draw(first: int, last: int) -> torch.Tensor:
        return generate(flux, words[first:last], range(first, last), settings)

    reference = record(flux, draw, 0, 6)
    fitted = fit(flux, draw, reference, (0, 3, 6, 8, 10, 11), 0, 6).config
    plain = draw(6, 8)
    assert fitted.weights is not None and fitted.computed is not None
    guarded = replace(with_guard(flux, draw, fitted, 0, 6), guarded=True)
    accelerate_pipeline(flux, guarded)
    draw(6, 8)
    assert "the guard" not in str(summary(flux))
    remove_acceleration(flux)
    again = torch.zeros_like(fitted.weights)
    last = 0
    for step, computed in enumerate(fitted.computed):
        last = step if computed else last
        if not computed:
            again[step, last] = 1.0
    off = []
    for weights in (fitted.weights, again):
        accelerate_pipeline(flux, TrajectoryConfig(computed=fitted.computed, weights=weights))
        off.append(float((draw(6, 8) - plain).square().mean()))
        remove_acceleration(flux)
    assert off[0] < 0.8 * off[1]
