"""Fit the plans that ship for an embedded pipeline anew at the calls that they compute, and measure their guard.

    python benchmarks/refit.py emoji-pixart --branches

Writes ``outputs/refit/MODEL/PRESET/``; says how close the old and the new one are on the search prompts that both were
fitted to. Nothing that ships is changed: certify a new plan first, and put it in place then.
"""

import argparse
import warnings
from pathlib import Path

import torch

import dit_accel
from dit_accel.calibration.finishing import CALIBRATED_NOTE
from dit_accel.calibration.guard import with_guard
from dit_accel.calibration.judging import Judge, drawing
from dit_accel.calibration.recording import Recording, record
from dit_accel.calibration.subject import NUM_IMAGES, NUM_VIDEOS
from dit_accel.families.targets import find_targets
from dit_accel.passes.trajectory.apply import TrajectoryConfig
from dit_accel.pipelines.generation import GenerationSettings, makes_video
from dit_accel.plan.fingerprint import fingerprint
from dit_accel.plan.plan import AccelerationPlan
from dit_accel.prompts import load_prompts

SHIPPED = Path(__file__).parent.parent / "schedules" / "plans"


def main() -> None:
    """Parse, record, fit each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--branches", action="store_true", help="weights of its own for each guidance branch")
    parser.add_argument("--num-prompts", type=int, help="to fit to; default: as `dit-accel calibrate`")
    parser.add_argument("--presets", nargs="+", default=["balanced", "fast", "turbo", "extreme"])
    parser.add_argument("-o", "--output", type=Path, default=Path("outputs/refit"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", dit_accel.AccelerationWarning)

    pipe = dit_accel.load_embedded(asked.model)
    video = makes_video(pipe)
    prompts = load_prompts("search", "video" if video else "image").prompts
    count = asked.num_prompts or (NUM_VIDEOS if video else NUM_IMAGES)
    draw = drawing(pipe, prompts, GenerationSettings())
    made = asked.output / asked.model
    made.mkdir(parents=True, exist_ok=True)
    reference = Recording()
    record(pipe, draw, 0, count, reference)
    reference.forget_outputs()
    for preset in asked.presets:
        shipped = AccelerationPlan.from_pretrained(SHIPPED / asked.model / preset)
        (old,) = shipped.passes
        assert isinstance(old, TrajectoryConfig) and old.computed is not None
        steps = tuple(step for step, is_computed in enumerate(old.computed) if is_computed)
        verdict = Judge(pipe, draw, reference, branches=asked.branches)(steps)
        assert verdict.point is not None and isinstance(verdict.config, TrajectoryConfig), verdict.why
        point = verdict.point
        print(
            f"{preset}: {len(steps)} of {point.num_steps}, {point.psnr_db:.1f} dB, worst {point.worst_db:.1f} dB, "
            f"ST-LPIPS {point.st_lpips}",
            flush=True,
        )
        plan = AccelerationPlan(
            name=preset,
            passes=(with_guard(pipe, draw, verdict.config, 0, count),),
            fingerprints=tuple(fingerprint(target) for target in find_targets(pipe)),
            conditions=reference.conditions,
            notes=(CALIBRATED_NOTE,),
        )
        plan.save_pretrained(made / preset)


if __name__ == "__main__":
    main()
