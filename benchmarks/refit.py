"""Fit the plans that ship for an embedded pipeline anew at the calls that they compute, and measure their guard.

    python benchmarks/refit.py emoji-pixart --branches
    python benchmarks/refit.py emoji-sd --branches --presets --choose light=34   # the surrogate's choice of 34 calls
    python benchmarks/refit.py emoji-wan --branches --tail 1 --num-prompts 32    # difficult prompts count more

Writes ``outputs/refit/MODEL/PRESET/``; says how close the old and the new one are on the search prompts that both were
fitted to. Nothing that ships is changed: certify a new plan first, and put it in place then. The plain run is recorded
once, and kept beside them for the next fit to as many prompts.
"""

import argparse
import warnings
from pathlib import Path
from typing import Any

import torch

import dit_accel
from dit_accel.calibration.books import Steps
from dit_accel.calibration.calibrate import GAIN_PROMPTS
from dit_accel.calibration.choose import Gaps, choose_steps, gram_of
from dit_accel.calibration.finishing import CALIBRATED_NOTE
from dit_accel.calibration.fit import first_of_each
from dit_accel.calibration.gains import measure_gains
from dit_accel.calibration.guard import with_guard
from dit_accel.calibration.judging import Judge, drawing
from dit_accel.calibration.kept_recording import recorded
from dit_accel.calibration.recording import Draw, Recording, record
from dit_accel.calibration.subject import NUM_IMAGES, NUM_VIDEOS
from dit_accel.errors import AccelerationWarning
from dit_accel.evaluation.progress_files import read_json, write_json
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
    parser.add_argument("--tail", type=float, default=0.0, help="how much more difficult prompts count in a fit")
    parser.add_argument("--num-prompts", type=int, help="to fit to; default: as `dit-accel calibrate`")
    parser.add_argument("--presets", nargs="*", default=["balanced", "fast", "turbo", "extreme"])
    parser.add_argument("--choose", nargs="*", default=[], metavar="NAME=CALLS", help="new plans, of so many calls")
    parser.add_argument("--gain-prompts", type=int, default=GAIN_PROMPTS, help="on which --choose measures gains")
    parser.add_argument("--candidates", type=int, default=1, help="the surrogate's best so many are fitted for each")
    parser.add_argument("-o", "--output", type=Path, default=Path("outputs/refit"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", AccelerationWarning)

    pipe = dit_accel.load_embedded(asked.model)
    video = makes_video(pipe)
    prompts = load_prompts("search", "video" if video else "image").prompts
    count = asked.num_prompts or (NUM_VIDEOS if video else NUM_IMAGES)
    draw = drawing(pipe, prompts, GenerationSettings())
    made = asked.output / asked.model

    def run(recording: Recording) -> None:
        record(pipe, draw, 0, count, recording)

    kept = made / f"recording-{count}"
    reference = recorded(kept, {"model": asked.model}, run, gram_of, outputs=bool(asked.choose))
    wishes = {preset: [_computed(asked.model, preset)] for preset in asked.presets}
    if asked.choose:
        gaps = _gaps(pipe, draw, reference, asked.gain_prompts, kept)
        for wish in asked.choose:
            name, calls = wish.split("=")
            wishes[name] = [each.computed for each in choose_steps(gaps, int(calls), count=asked.candidates)]
    judge = Judge(pipe, draw, reference, branches=asked.branches, tail=asked.tail)
    for preset, sets in wishes.items():
        verdicts = []
        for steps in sets:
            verdict = judge(steps)
            assert verdict.point is not None, verdict.why
            point = verdict.point
            verdicts.append((point.psnr_db, verdict))
            print(
                f"{preset}: {len(steps)} of {point.num_steps}, {point.psnr_db:.1f} dB, worst {point.worst_db:.1f} dB, "
                f"ST-LPIPS {point.st_lpips}, {steps}",
                flush=True,
            )
        config = max(verdicts, key=lambda each: each[0])[1].config
        assert isinstance(config, TrajectoryConfig)
        plan = AccelerationPlan(
            name=preset,
            passes=(with_guard(pipe, draw, config, 0, count),),
            fingerprints=tuple(fingerprint(target) for target in find_targets(pipe)),
            conditions=reference.conditions,
            notes=(CALIBRATED_NOTE,),
        )
        plan.save_pretrained(made / preset)


def _computed(model: str, preset: str) -> Steps:
    """The calls that a plan computes which ships."""
    (config,) = AccelerationPlan.from_pretrained(SHIPPED / model / preset).passes
    assert isinstance(config, TrajectoryConfig) and config.computed is not None
    return tuple(step for step, is_computed in enumerate(config.computed) if is_computed)


def _gaps(pipe: Any, draw: Draw, reference: Recording, gain_prompts: int, kept: Path) -> Gaps:
    """What the surrogate knows; the gains are measured once."""
    path = kept / f"gains-{gain_prompts}.json"
    known = read_json(path)
    gains = known["gains"] if known else measure_gains(pipe, draw, reference, gain_prompts)
    write_json(path, {"gains": gains})
    return Gaps(reference.gram, gains, first_of_each(reference.denoisers) - {0})


if __name__ == "__main__":
    main()
