"""What few bits cost in closeness to the plain run, and what they take: naive rows, plans that ship, calibrated rows.

    python benchmarks/quant_quality.py emoji-pixart --no-fit --output benchmarks/results/quant-emoji-pixart.json

Held-out prompts (list ``certify``), the same seeds plain and quantised; fp32 is the reference. Rows that are in the
file are not drawn again. ``--fit`` adds rows that are calibrated on search prompts here; one scale for a run is among
them because it takes recorded layers, and is naive all the same. ``--bf16`` adds the plain run in bf16.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from quant_common import Subject, load, resumed, save, scores_of, shipped
from torch import nn

from dit_accel import QuantizeConfig, accelerated, load_embedded
from dit_accel.calibration.quant_fit import fit_layer
from dit_accel.calibration.quant_record import record_layers
from dit_accel.families.targets import find_targets
from dit_accel.passes.quantize.apply import quantised_of
from dit_accel.passes.quantize.choice import full_name
from dit_accel.passes.quantize.roles import layers_of
from dit_accel.passes.quantize.scheme import QuantScheme
from dit_accel.session.session import session_of

NAIVE: dict[str, dict[str, str]] = {
    "w8a8, a scale for each token": {"bits": "w8a8"},
    "w8a8, one scale for a call": {"bits": "w8a8-tensor"},
    "w4a8, a scale for each channel": {"bits": "w4a8-channel", "convs": "w4a8-channel"},
    "w4a8, groups of 64": {"bits": "w4a8", "convs": "w8a8"},
    "fp8": {"bits": "fp8", "convs": "fp8"},
}
FITTED: dict[str, tuple[str, dict[str, Any]]] = {
    "w8a8, calibrated": ("w8a8", {}),
    "w8a8, one scale for the run": ("w8a8-static", {"alphas": (), "rotate": False, "correct": False}),
    "w4a8, balanced": ("w4a8", {"by_columns": False}),
    "w4a8, calibrated": ("w4a8", {}),
    "w4a4, calibrated": ("w4a4", {}),
}
# Outside of blocks, and still a large share: without it emoji-wan is not three times smaller than in bf16.
OUTSIDE = {"emoji-wan": {"transformer.condition_embedder.time_proj": "w8a16"}}
EXACT = ((1, 0), (0, 1), (2, 2))  # steps at the start and at the end
SEED = 60_000  # of search prompts
BF16 = "bf16, nothing rounded"


def rows_of(model: str) -> dict[str, tuple[str, QuantizeConfig]]:
    """The rows that take no calibration: what they are, and the pass."""
    found = {
        name: ("naive", QuantizeConfig(backend="integers", **fields))  # type: ignore[arg-type]
        for name, fields in NAIVE.items()
    }
    if model in OUTSIDE:
        config = QuantizeConfig(bits="w4a8", layers=OUTSIDE[model], backend="integers")
        found["w4a8, groups of 64, the modulation of all blocks w8a16"] = ("naive", config)
    for bits in ("w8a8", "w4a8"):
        plan = shipped(model, bits)
        if plan is not None:
            found[f"{bits}, the plan that ships"] = ("shipped", plan)
    config = shipped(model, "w4a8") or QuantizeConfig(bits="w4a8", backend="integers")
    for first, last in ((0, 0), *EXACT):
        found[f"{first} and {last} exact"] = ("exact", replace(config, exact_first=first, exact_last=last))
    return found


def fitted_rows(subject: Subject, recorded: int) -> dict[str, tuple[str, QuantizeConfig]]:
    """The same widths, calibrated; and fixed scales, which is what calibration alone cannot save."""
    most = round(recorded * 0.75)
    records = record_layers(
        subject.pipe,
        lambda: subject.draw("search", 0, most, SEED),
        lambda: subject.draw("search", most, recorded, SEED),
    )
    found = {}
    for name, (text, how) in FITTED.items():
        stored: dict[str, torch.Tensor] = {}
        layers = {}
        for target in find_targets(subject.pipe):
            for each in layers_of(target):
                key = full_name(target.name, each.path)
                if key in records and isinstance(each.layer, nn.Linear):
                    fit = fit_layer(each.layer, records[key], QuantScheme.parse(text), **how)
                    stored |= fit.stored(key)
                    layers[key] = str(fit.scheme)
        bits = text.removesuffix("-static")
        found[name] = ("calibrated", QuantizeConfig(bits=bits, layers=layers, stored=stored, backend="integers"))
    return found


def bytes_with(pipe: Any, config: QuantizeConfig) -> tuple[int, int]:
    """Of the denoisers, with and without a plan: counted, nothing is drawn."""
    with accelerated(pipe, [config]):
        session = session_of(pipe)
        assert session is not None
        parts = [quantised_of(runtime) for runtime in session.runtimes]
        return sum(part.bytes_now() for part in parts), sum(part.bytes_before for part in parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--num", type=int, default=8, help="held-out prompts")
    parser.add_argument("--recorded", type=int, default=64, help="search prompts that layers are recorded on")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--fit", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--bf16", action="store_true", help="also the plain run in bf16")
    parser.add_argument("--pictures", type=Path, help="a folder for what was drawn")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    subject = load(args.model, args.steps)
    result: dict[str, Any] = {"model": args.model, "n": args.num, "steps": args.steps, "recorded": args.recorded}
    result = resumed(args.output, {**result, "rows": {}})
    done = result["rows"]
    plain = subject.draw("certify", 0, args.num)
    half = replace(subject, pipe=load_embedded(args.model).to(torch.bfloat16))
    half.pipe.set_progress_bar_config(disable=True)
    rows = {name: row for name, row in rows_of(args.model).items() if name not in done}
    if args.fit and not set(FITTED) <= set(done):
        rows |= {name: row for name, row in fitted_rows(subject, args.recorded).items() if name not in done}

    def measure(name: str, kind: str, draw: Callable[[], torch.Tensor], config: QuantizeConfig | None) -> None:
        drawn = draw()
        now, before = (1, 1) if config is None else bytes_with(half.pipe, config)
        done[name] = {"kind": kind, **scores_of(drawn, plain), "bytes": now, "bytes_bf16": before}
        if config is not None:
            done[name] |= {"exact": [config.exact_first, config.exact_last]}
        print(f"{name:40s} {now / before:.3f} of bf16", done[name], flush=True)
        if args.pictures is not None:
            save_sheet(args.pictures / f"{args.model} {name}.png", plain, drawn)
        save(args.output, result)

    for name, (kind, config) in rows.items():

        def draw(config: QuantizeConfig = config) -> torch.Tensor:
            with accelerated(subject.pipe, [config]):
                return subject.draw("certify", 0, args.num)

        measure(name, kind, draw, config)
    if args.bf16 and BF16 not in done:
        measure(BF16, "plain", lambda: half.draw("certify", 0, args.num), None)


def save_sheet(path: Path, plain: torch.Tensor, drawn: torch.Tensor) -> None:
    """Plain above, quantised below; of a video its middle frames."""
    from PIL import Image

    pairs = [each if each.dim() == 4 else each[:, each.shape[1] // 2] for each in (plain, drawn)]
    sheet = torch.cat([torch.cat(list(each), 2) for each in pairs], 1)
    array = (sheet.permute(1, 2, 0) * 255).round().byte().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).resize((array.shape[1] * 2, array.shape[0] * 2), Image.Resampling.NEAREST).save(path)


if __name__ == "__main__":
    main()
