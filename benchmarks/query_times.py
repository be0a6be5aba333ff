"""Measure what it is worth to tell the denoiser other times than the sampler's, at the calls that a plan computes.

    python benchmarks/query_times.py emoji-flux --preset turbo

The latents stay where the sampler has them; the time that the denoiser is told moves by a share of the step to come,
one computed call after the other, as long as the fitted runs end nearer to the plain ones. The answers are fitted anew
each time. Prints the gain there and on held-out prompts. For models that embed their time in one ``time_proj``.
"""

import argparse
import math
import warnings
from pathlib import Path
from typing import Any

import torch

import dit_accel
from dit_accel.calibration.fit import Fitted, fit
from dit_accel.calibration.judging import drawing
from dit_accel.calibration.recording import record
from dit_accel.errors import AccelerationWarning
from dit_accel.evaluation.metrics.fidelity import differences
from dit_accel.passes.trajectory.apply import TrajectoryConfig
from dit_accel.pipelines.generation import GenerationSettings, generate
from dit_accel.plan.plan import AccelerationPlan
from dit_accel.prompts import load_prompts

SHIPPED = Path(__file__).parent.parent / "schedules" / "plans"
SIZES = (0.5, 0.25, 0.125)
ENOUGH = 0.002  # of the mean logarithm of the error: 0.02 dB
WORST_FRAC = 0.05


def main() -> None:
    """Parse, record, and move one time after the other."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--preset", default="turbo")
    parser.add_argument("--fitted", type=int, default=16, help="prompts that are fitted to")
    parser.add_argument("--held-out", type=int, default=16)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", AccelerationWarning)

    (config,) = AccelerationPlan.from_pretrained(SHIPPED / asked.model / asked.preset).passes
    assert isinstance(config, TrajectoryConfig) and config.computed is not None
    computed = tuple(step for step, is_computed in enumerate(config.computed) if is_computed)
    pipe = dit_accel.load_embedded(asked.model)
    pipe.set_progress_bar_config(disable=True)
    draw = drawing(pipe, load_prompts("search", "image").prompts, GenerationSettings())
    reference = record(pipe, draw, 0, asked.fitted)
    reference.forget_outputs()
    texts = load_prompts("certify", "image").prompts[: asked.held_out]
    plain = generate(pipe, texts, range(len(texts)), GenerationSettings())
    moved: dict[int, float] = {}
    _tell_other_times(pipe, moved)
    guided = asked.model != "emoji-flux"

    def fitted(offsets: dict[int, float]) -> tuple[float, Fitted]:
        moved.clear()
        moved.update(offsets)
        found = fit(pipe, draw, reference, computed, 0, asked.fitted, branches=guided)
        return float(found.errors.log().mean()), found

    def held_out(found: Fitted) -> str:
        with dit_accel.accelerated(pipe, found.config):
            pictures = generate(pipe, texts, range(len(texts)), GenerationSettings())
        values = sorted(differences(pictures, plain, perceptual=[])["psnr_db"])
        worst = values[: max(1, int(len(values) * WORST_FRAC))]
        return f"{sum(values) / len(values):.2f} / {sum(worst) / len(worst):.2f} dB held out (n = {len(values)})"

    start, found = fitted({})
    print(f"{asked.model} {asked.preset}, computed {computed}: {held_out(found)}", flush=True)
    best, offsets = start, dict[int, float]()
    for size in SIZES:
        for step in computed:
            for sign in (1, -1):
                tried = {**offsets, step: offsets.get(step, 0.0) + sign * size}
                error, this = fitted(tried)
                if error < best - ENOUGH:
                    best, offsets, found = error, tried, this
                    break
        moved.clear()
        moved.update(offsets)
        gain = 20 * (start - best) / math.log(10)
        print(
            f"steps of {size:g}: {gain:.2f} dB gained on the fitted prompts; {held_out(found)}; {offsets}", flush=True
        )


def _tell_other_times(pipe: Any, moved: dict[int, float]) -> None:
    """Let what embeds the time see it moved: only a computed call comes so far."""
    times = [float(time) for time in pipe.scheduler.timesteps] + [0.0]

    def hook(module: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        time = given[0]
        step = min(range(len(times) - 1), key=lambda number: abs(times[number] - float(time.flatten()[0])))
        return (time + moved.get(step, 0.0) * (times[step + 1] - times[step]), *given[1:])

    embedding = [module for name, module in pipe.transformer.named_modules() if name.endswith("time_proj")]
    assert len(embedding) == 1, "the time is embedded in one place"
    embedding[0].register_forward_pre_hook(hook)


if __name__ == "__main__":
    main()
