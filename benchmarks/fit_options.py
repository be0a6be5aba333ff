"""Measure what options of the fit are worth on held-out prompts, at the calls that shipped presets compute.

    python benchmarks/fit_options.py emoji-pixart --presets fast turbo --options "" tail=1 tail=4 sweeps=2

Fits to ``search`` prompts, draws ``certify`` prompts with each plan, and prints PSNR to the plain run: mean, and the
mean of the worst twentieth (at least one prompt). Writes the same, prompt by prompt, as JSON.
"""

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import torch

import dit_accel
from dit_accel.calibration.fit import fit
from dit_accel.calibration.judging import drawing
from dit_accel.calibration.recording import record
from dit_accel.errors import AccelerationWarning
from dit_accel.evaluation.metrics.fidelity import differences
from dit_accel.passes.trajectory.apply import TrajectoryConfig
from dit_accel.pipelines.generation import GenerationSettings, generate, makes_video
from dit_accel.plan.plan import AccelerationPlan
from dit_accel.prompts import load_prompts

SHIPPED = Path(__file__).parent.parent / "schedules" / "plans"
WORST_FRAC = 0.05


def options_of(text: str) -> dict[str, Any]:
    """``branches,tail=4`` as arguments of the fit; the empty text is none."""
    found: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        found[name] = json.loads(value) if value else True
    return found


def computed_of(model: str, preset: str) -> tuple[int, ...]:
    """The evaluations that a shipped plan computes; of ``0,3,7`` these."""
    if preset[0].isdigit():
        return tuple(int(step) for step in preset.split(","))
    (config,) = AccelerationPlan.from_pretrained(SHIPPED / model / preset).passes
    assert isinstance(config, TrajectoryConfig) and config.computed is not None
    return tuple(step for step, is_computed in enumerate(config.computed) if is_computed)


def worst(values: list[float]) -> float:
    """Mean of the worst twentieth, of one at least."""
    some = sorted(values)[: max(1, int(len(values) * WORST_FRAC))]
    return sum(some) / len(some)


def main() -> None:
    """Parse, record, fit and draw each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--presets", nargs="+", default=["fast"], help="or computed calls: 0,3,7")
    parser.add_argument("--options", nargs="+", default=["", "sweeps=1"])
    parser.add_argument("--fitted", type=int, default=8, help="prompts that are fitted to")
    parser.add_argument("--held-out", type=int, default=8)
    parser.add_argument("-o", "--output", type=Path, default=Path("outputs/fit-options"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", AccelerationWarning)

    pipe = dit_accel.load_embedded(asked.model)
    pipe.set_progress_bar_config(disable=True)
    kind, settings = "video" if makes_video(pipe) else "image", GenerationSettings()
    draw = drawing(pipe, load_prompts("search", kind).prompts, settings)
    texts = load_prompts("certify", kind).prompts[: asked.held_out]
    reference = record(pipe, draw, 0, asked.fitted)
    reference.forget_outputs()
    plain = generate(pipe, texts, range(len(texts)), settings)
    rows: list[dict[str, Any]] = []
    for preset in asked.presets:
        computed = computed_of(asked.model, preset)
        for option in asked.options:
            began = time.process_time()
            fitted = fit(pipe, draw, reference, computed, 0, asked.fitted, **options_of(option))
            took = time.process_time() - began
            with dit_accel.accelerated(pipe, fitted.config):
                pictures = generate(pipe, texts, range(len(texts)), settings)
            held = differences(pictures, plain, perceptual=[])["psnr_db"]
            own = differences(fitted.pictures, reference.pictures, perceptual=[])["psnr_db"]
            row = {"model": asked.model, "computed": computed, "option": option, "fit_s": took}
            rows.append({**row, "held_out_db": held, "fitted_db": own})
            print(
                f"{asked.model} {preset} ({len(computed)} computed) {option or 'as it is'}: held-out "
                f"{sum(held) / len(held):.2f} / {worst(held):.2f} dB (n = {len(held)}), fitted "
                f"{sum(own) / len(own):.2f} / {worst(own):.2f} (n = {len(own)}), fit {took:.0f} s of processor time",
                flush=True,
            )
    asked.output.mkdir(parents=True, exist_ok=True)
    (asked.output / f"{asked.model}.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
