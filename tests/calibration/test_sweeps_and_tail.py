"""What the fit can do for the end of the run: answers refitted for it, difficult prompts counting more."""

from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_call, tiny_pipeline

from dit_accel import accelerate_pipeline
from dit_accel.calibration import sweeps
from dit_accel.calibration.emphasis import LARGEST, emphasis_of, powers
from dit_accel.calibration.fit import fit
from dit_accel.calibration.fit_runs import Run, Runner
from dit_accel.calibration.recording import record
from dit_accel.calibration.sweeps import swept
from dit_accel.errors import ConfigError

STEPS, COUNT = 6, 4
THIRD = frozenset((0, 3))
INPUTS = ("x_embedder", "conv_in", "patch_embedding", "pos_embed")  # the first module that a computed call runs


def drawing(pipe: Any, name: str) -> Any:
    """Draws so many pictures in one call, each from a seed of its own."""

    def draw(first: int, last: int) -> torch.Tensor:
        images = {} if name == "wan" else {"num_images_per_prompt": last - first}
        call = tiny_call(name, num_inference_steps=STEPS, **images)
        call["generator"] = [torch.Generator().manual_seed(seed) for seed in range(first, last)]
        out = pipe(**call)[0]
        return out if isinstance(out, torch.Tensor) else torch.stack(list(out))

    return draw


def fitted(name: str, **more: Any) -> tuple[Runner, Run]:
    pipe = tiny_pipeline(name)
    draw, count = drawing(pipe, name), 1 if name == "wan" else COUNT
    reference = record(pipe, draw, 0, count)
    runner = Runner(pipe=pipe, draw=draw, reference=reference, computed=THIRD, first=0, last=count, **more)
    return runner, runner.run()


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("flux", {}),
        ("sd", {"branches": True}),
        ("wan", {"branches": True}),
        ("pixart", {"branches": True, "conditional": frozenset((1, 4))}),
    ],
)
def test_a_run_is_repeated_from_anywhere_without_computing_what_was_before(name: str, more: Any) -> None:
    runner, whole = fitted(name, **more)
    calls: list[int] = []
    denoiser = getattr(runner.pipe, "transformer", None) or runner.pipe.unet
    first = next(denoiser.get_submodule(path) for path in INPUTS if path in dict(denoiser.named_modules()))
    counter = first.register_forward_hook(lambda *_: calls.append(1))
    each = 2 if name == "wan" else 1  # branches in two calls
    for start, computed in ((1, {0, 3, 1, 4}), (4, {0, 4}), (5, {0})):
        calls.clear()
        again = runner.run(whole.script(start), before=whole)
        assert torch.equal(again.learner.latents, whole.learner.latents)
        assert torch.equal(again.pictures, whole.pictures)
        wanted = computed & (THIRD | more.get("conditional", frozenset()))
        assert len(calls) == each * len(wanted)
    counter.remove()


def worsened(run: Run, step: int) -> dict[int, dict[int, float]]:
    """Weights of which those of one answer are far off."""
    return {**run.learner.solved, step: {name: 2 * weight for name, weight in run.learner.solved[step].items()}}


@pytest.mark.parametrize(("name", "more"), [("flux", {}), ("sd", {"branches": True})])
def test_a_sweep_finds_back_what_was_lost_and_the_pass_repeats_it(name: str, more: Any) -> None:
    """One answer is spoilt; the sweep cannot know which, and mends the end of the run for prompts held out as well."""
    runner, whole = fitted(name, **more)
    spoilt = runner.run(whole.script(0, worsened(whole, 4)), before=whole)
    spoilt.learner.grams.update(whole.learner.grams)
    assert float(spoilt.errors.mean()) > 1.1 * float(whole.errors.mean())
    found = swept(runner, spoilt, 1)
    assert found.tried == STEPS - len(THIRD) and 1 <= found.accepted <= found.tried
    held = slice(COUNT - 1, None)
    assert float(found.run.errors[held].mean()) < float(spoilt.errors[held].mean())
    lost, left = (float((run.errors - whole.errors).mean()) for run in (spoilt, found.run))
    assert left < 0.5 * lost
    accelerate_pipeline(runner.pipe, found.run.learner.config(), strict=True)
    torch.testing.assert_close(runner.draw(0, COUNT), found.run.pictures, rtol=1e-3, atol=1e-3)


def test_what_held_out_prompts_do_not_gain_by_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    runner, whole = fitted("flux")
    monkeypatch.setattr(sweeps, "_logs", lambda run, part, emphasis: 0.0 if part[-1] else -float(run is whole))
    found = swept(runner, whole, 3)
    assert found.accepted == 0 and found.run is whole
    assert found.tried == STEPS - len(THIRD)  # a sweep that changes nothing is the last


def test_directions_move_the_answer_by_its_size() -> None:
    columns = np.random.default_rng(0).normal(size=(5, 200)).cumsum(0)
    weights = np.array([0.0, 0.1, -0.2, 0.3, 0.8])
    moves = sweeps._directions((columns @ columns.T)[None], weights)
    assert len(moves) == sweeps.DIRECTIONS
    np.testing.assert_allclose(np.linalg.norm(moves @ columns, axis=1), np.linalg.norm(weights @ columns))


def test_difficult_prompts_count_more_within_limits() -> None:
    errors = np.array([0.01, 0.02, 0.04, 0.5])
    found = emphasis_of(errors, 1.0)
    assert found.mean() == pytest.approx(1) and (np.diff(found) > 0).all()
    assert emphasis_of(errors, 9.0).max() <= LARGEST**2 * emphasis_of(errors, 9.0).min() * (1 + 1e-9)
    np.testing.assert_allclose(emphasis_of(np.ones(4), 2.0), 1)
    settled = emphasis_of(errors, 1.0, before=np.ones(4))
    assert settled.max() / settled.min() == pytest.approx((found.max() / found.min()) ** 0.5)
    assert powers([1.0, 2.0], 1.0) == 4.5


def test_a_fit_that_cares_for_the_tail_is_never_worse_there() -> None:
    pipe = tiny_pipeline("flux")
    draw = drawing(pipe, "flux")
    reference = record(pipe, draw, 0, COUNT)
    plain, cared = (fit(pipe, draw, reference, THIRD, 0, COUNT, tail=tail) for tail in (0.0, 4.0))
    assert powers(cared.errors, 4.0) < powers(plain.errors, 4.0)
    assert not torch.equal(cared.config.weights, plain.config.weights)
    accelerate_pipeline(pipe, cared.config)
    torch.testing.assert_close(draw(0, COUNT), cared.pictures, rtol=1e-3, atol=1e-3)


def test_what_cannot_be_fitted_so_is_refused() -> None:
    pipe = tiny_pipeline("flux")
    draw = drawing(pipe, "flux")
    reference = record(pipe, draw, 0, 1)
    for more, words in (
        ({"tail": -1.0}, "'tail'"),
        ({"tail": float("nan")}, "'tail'"),
        ({"sweeps": 1}, "two prompts"),
    ):
        with pytest.raises(ConfigError, match=words):
            fit(pipe, draw, reference, THIRD, 0, 1, **more)
    with pytest.raises(ConfigError, match="no filters"):
        fit(pipe, draw, record(pipe, draw, 0, 2), THIRD, 0, 2, sweeps=1, channels=True)
