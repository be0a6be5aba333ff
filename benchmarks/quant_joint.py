"""A quantised plan and a trajectory in one: each as it was found, and the trajectory fitted on the quantised model.

    python benchmarks/quant_joint.py emoji-flux --with fast --output benchmarks/results/quant-joint-emoji-flux.json

Plans that ship are taken where there are any, else weights rounded to the nearest. Judged on search prompts that
nothing was fitted to.
"""

import argparse
from pathlib import Path
from typing import Any

from quant_common import load, resumed, save, shipped

from dit_accel import AccelerationPlan, QuantizeConfig
from dit_accel.api import resolve_plan
from dit_accel.calibration.quant_joint import join
from dit_accel.families.targets import find_targets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--bits", nargs="+", default=["w8a8", "w4a8"])
    parser.add_argument("--with", dest="other", default="fast", help="a plan with a trajectory")
    parser.add_argument("--num", type=int, default=8, help="prompts that are judged")
    parser.add_argument("--recorded", type=int, help="prompts that are fitted to")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    subject = load(args.model, args.steps)
    result: dict[str, Any] = {"model": args.model, "with": args.other, "n": args.num, "steps": args.steps}
    result = resumed(args.output, {**result, "rows": {}})
    other = resolve_plan(args.other, find_targets(subject.pipe))
    for bits in args.bits:
        if bits in result["rows"]:
            continue
        config = shipped(args.model, bits)
        quantised = AccelerationPlan(name=bits, passes=(config or QuantizeConfig(bits=bits, backend="integers"),))
        joint = join(
            subject.pipe,
            quantised,
            other,
            model=args.model,
            settings=subject.settings,
            num_prompts=args.recorded,
            judged=args.num,
        )
        result["rows"][bits] = {"shipped": config is not None, "gain": joint.gain, "scores": joint.scores}
        print(bits, result["rows"][bits], flush=True)
        save(args.output, result)


if __name__ == "__main__":
    main()
