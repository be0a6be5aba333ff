"""Who gets how many bits: by errors and how they add up, by each error alone, or by what each layer is for.

    python benchmarks/quant_bits.py emoji-flux --memory 0.25 --output benchmarks/results/quant-bits-emoji-flux.json

The same memory for all, between that of w4a8 and that of w8a8 everywhere; layers are fitted once, on search prompts.
What is shown is on held-out prompts (list ``certify``), with the error of the denoiser's output that the Gram matrix
foretells, with and without products of two layers' errors.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any, get_args

from quant_common import Subject, load, resumed, save, scores_of

from dit_accel import QuantizeConfig, accelerated
from dit_accel.calibration.quant_search import How
from dit_accel.calibration.quantise import Quantisation, quantise
from dit_accel.passes.quantize.scheme import PLAIN


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--memory", type=float, nargs="+", required=True, help="shares of the weights' bytes in fp32")
    parser.add_argument("--bits", default="w4a8", help="the lowest width")
    parser.add_argument("--num", type=int, default=8, help="held-out prompts")
    parser.add_argument("--recorded", type=int, default=16, help="search prompts that layers are recorded on")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--folder", type=Path, help="for progress; default outputs/quant-bits/MODEL")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    subject = load(args.model, args.steps)
    result: dict[str, Any] = {"model": args.model, "bits": args.bits, "n": args.num, "recorded": args.recorded}
    result = resumed(args.output, {**result, "steps": args.steps, "rows": {}})
    plain = subject.draw("certify", 0, args.num)
    for memory in args.memory:
        for how in get_args(How):
            name = f"{how} {memory:g}"
            if name in result["rows"]:
                continue
            found = quantise(
                subject.pipe,
                args.folder or Path("outputs/quant-bits") / args.model,
                model=args.model,
                bits=args.bits,
                memory=memory,
                how=how,
                settings=subject.settings,
                num_prompts=args.recorded,
            )
            result["rows"][name] = {"how": how, "memory": memory, **row_of(subject, found, plain, args.num)}
            print(f"{name:20s}", result["rows"][name], flush=True)
            save(args.output, result)


def row_of(subject: Subject, found: Quantisation, plain: Any, num: int) -> dict[str, Any]:
    """What a choice takes, what was foretold of it, and how its pictures are."""
    config = found.plan.passes[0]
    assert isinstance(config, QuantizeConfig) and found.gram is not None
    chosen = widths_of(found)
    with accelerated(subject.pipe, [config]):
        drawn = subject.draw("certify", 0, num)
    return {
        "taken": found.memory,
        "layers": dict(Counter(config.layers.values())),
        "foretold": found.gram.loss(chosen),
        "foretold_alone": found.gram.loss(chosen, interactions=False),
        **scores_of(drawn, plain),
    }


def widths_of(found: Quantisation) -> dict[str, str]:
    """The rows of the Gram matrix that a plan takes; layers in full are left out."""
    config = found.plan.passes[0]
    assert isinstance(config, QuantizeConfig)
    return {
        layer: width
        for (layer, width), fit in found.fits.items()
        if config.layers[layer] != PLAIN and config.layers[layer] == str(fit.scheme)
    }


if __name__ == "__main__":
    main()
