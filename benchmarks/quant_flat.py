"""What learned transforms are worth at 4 bits: error of each layer's output plain, rotated, searched and learned.

    python benchmarks/quant_flat.py emoji-flux --num 4 --output benchmarks/results/quant-flat-emoji-flux.json

Layers are recorded and fitted on search prompts; errors are of rows of prompts that nothing was fitted to but the
choice, and, of transforms, of which three in four were learned on: the held ones are given apart. With ``--num`` the
pictures of held-out prompts are compared with the plain run's.
"""

import argparse
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from quant_common import load, save, scores_of
from torch import nn

from dit_accel import QuantizeConfig, accelerated
from dit_accel.calibration.quant_fit import LayerFit, fit_layer
from dit_accel.calibration.quant_flat import LEARNED_FRAC, sides
from dit_accel.calibration.quant_inputs import as_rounded
from dit_accel.calibration.quant_record import LayerRecord, record_layers
from dit_accel.families.targets import find_targets
from dit_accel.passes.quantize.choice import full_name
from dit_accel.passes.quantize.roles import layers_of
from dit_accel.passes.quantize.scheme import QuantScheme

Rows = dict[str, dict[str, float]]


def ways(scheme: QuantScheme) -> dict[str, tuple[QuantScheme, dict[str, Any]]]:
    """How each row of the table fits a layer; all are rounded column by column at the end."""
    return {
        "plain": (scheme, {"alphas": (), "rotate": False}),
        "rotated": (replace(scheme, rotate=True), {"alphas": ()}),
        "searched": (scheme, {}),
        "learned": (replace(scheme, flat=True), {}),
    }


def held_error(layer: nn.Linear, record: LayerRecord, fit: LayerFit) -> float:
    """Squared error of the output over its square, on rows that no transform was taught."""
    rows = record.rows[round(len(record.rows) * LEARNED_FRAC) :]
    wanted = rows @ layer.weight.detach().float().mT
    given = as_rounded(rows, fit.scheme, fit.inverse_smooth, record, fit.affine)
    off = given @ fit.weight.scaled(fit.gain).dequantised().mT - wanted
    if fit.bias is not None:
        off = off + fit.bias - (0 if layer.bias is None else layer.bias.detach().float())
    assert sides(fit.affine) is not None or not fit.scheme.flat
    return float(off.square().sum() / wanted.square().sum().clamp_min(1e-30))


def kind_of(name: str) -> str:
    """What stands in a row for all blocks: the name without numbers of blocks."""
    return ".".join(part for part in name.split(".")[1:] if not part.isdigit())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--bits", default="w4a4")
    parser.add_argument("--recorded", type=int, default=16)
    parser.add_argument("--num", type=int, default=0, help="held-out prompts that are drawn with each; 0: none")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--layers", type=int, help="only so many layers, evenly spaced")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    subject = load(args.model, args.steps)
    most = round(0.75 * args.recorded)
    records = record_layers(
        subject.pipe,
        lambda: subject.draw("search", 0, most, 60_000),
        lambda: subject.draw("search", most, args.recorded, 60_000),
    )
    found = {
        full_name(target.name, each.path): each.layer
        for target in find_targets(subject.pipe)
        for each in layers_of(target)
    }
    names = [name for name in records if isinstance(found[name], nn.Linear)]
    if args.layers is not None:
        names = [names[round(k * (len(names) - 1) / max(1, args.layers - 1))] for k in range(args.layers)]
    by_kind: dict[str, Rows] = defaultdict(lambda: defaultdict(dict))  # type: ignore[arg-type]
    stored: dict[str, dict[str, torch.Tensor]] = {}
    schemes: dict[str, dict[str, str]] = {}
    learned = 0
    for number, name in enumerate(names):
        layer = found[name]
        assert isinstance(layer, nn.Linear)
        for way, (scheme, how) in ways(QuantScheme.parse(args.bits)).items():
            fit = fit_layer(layer, records[name], scheme, **how)
            by_kind[kind_of(name)][way][name] = held_error(layer, records[name], fit)
            stored.setdefault(way, {}).update(fit.stored(name))
            schemes.setdefault(way, {})[name] = str(fit.scheme)
            learned += fit.affine is not None
        errors = {way: round(each[name], 5) for way, each in by_kind[kind_of(name)].items()}
        print(f"{number + 1} of {len(names)} {name}", errors, flush=True)
    rows = {
        kind_name: {way: sum(errors.values()) / len(errors) for way, errors in each.items()}
        for kind_name, each in by_kind.items()
    }
    rows["all layers"] = {
        way: sum(sum(each[way].values()) for each in by_kind.values()) / len(names) for way in schemes
    }
    result: dict[str, Any] = {"model": args.model, "bits": args.bits, "recorded": args.recorded, "steps": args.steps}
    result |= {"layers": len(names), "learned": learned, "errors": rows, "pictures": {}, "n": args.num}
    for name, row in rows.items():
        print(f"{name:44s}", {way: round(error, 5) for way, error in row.items()})
    save(args.output, result)
    if args.num:
        plain = subject.draw("certify", 0, args.num)
        for way, layers in schemes.items():
            config = QuantizeConfig(bits="plain", modulation="plain", layers=layers, stored=stored[way])
            with accelerated(subject.pipe, [config]):
                result["pictures"][way] = scores_of(subject.draw("certify", 0, args.num), plain)
            print(f"{way:44s}", {metric: round(value, 4) for metric, value in result["pictures"][way].items()})
            save(args.output, result)


if __name__ == "__main__":
    main()
