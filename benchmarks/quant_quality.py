"""What few bits cost in closeness to the plain run, and what they take: naive rows beside calibrated ones.

    python benchmarks/quant_quality.py emoji-pixart --num 8 --output benchmarks/results/quant-emoji-pixart.json

Held-out prompts (list ``certify``), the same seeds plain and quantised. ``static`` rows need recorded layers, which is
why they are calibrated, too: one scale for a tensor and a run is what is naive about them. fp32 is the reference.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dit_accel import QuantizeConfig, accelerated, load_embedded
from dit_accel.calibration.quant_fit import fit_layer
from dit_accel.calibration.quant_record import record_layers
from dit_accel.evaluation.metrics.fidelity import differences
from dit_accel.evaluation.metrics.perceptual import available_perceptual
from dit_accel.families.targets import find_targets
from dit_accel.passes.quantize.apply import quantised_of
from dit_accel.passes.quantize.choice import full_name
from dit_accel.passes.quantize.roles import layers_of
from dit_accel.passes.quantize.scheme import QuantScheme
from dit_accel.pipelines.generation import GenerationSettings, generate, makes_video
from dit_accel.prompts import load_prompts
from dit_accel.session.session import session_of

NAIVE = {
    "w8a8, token by token": {"bits": "w8a8"},
    "w8a8, one scale a call": {"bits": "w8a8-tensor"},
    "w4a8, a scale for each channel": {"bits": "w4a8-channel", "convs": "w4a8-channel"},
    "w4a8, groups of 64, to the nearest": {"bits": "w4a8", "convs": "w8a8"},
    "fp8": {"bits": "fp8", "convs": "fp8", "modulation": "plain"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--num", type=int, default=8, help="held-out prompts")
    parser.add_argument("--recorded", type=int, default=32, help="search prompts that layers are recorded on")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--fit", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--pictures", type=Path, help="a folder for what was drawn")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pipe = load_embedded(args.model)
    pipe.set_progress_bar_config(disable=True)
    settings = GenerationSettings(num_inference_steps=args.steps)
    kind = "video" if makes_video(pipe) else "image"
    prompts = load_prompts("certify", kind).prompts[: args.num]

    def draw(listed: Any, seed: int) -> torch.Tensor:
        size = 1 if kind == "video" else 4
        return generate(pipe, listed, range(seed, seed + len(listed)), settings, batch_size=size)

    plain = draw(prompts, 0)
    rows: dict[str, QuantizeConfig] = {
        name: QuantizeConfig(backend="integers", **fields)
        for name, fields in NAIVE.items()  # type: ignore[arg-type]
    }
    if args.fit:
        searched = load_prompts("search", kind).prompts
        most = round(args.recorded * 0.75)
        rows |= fitted_rows(
            pipe,
            lambda: draw(searched[:most], 60_000),
            lambda: draw(searched[most : args.recorded], 60_000 + most),
        )
    result: dict[str, Any] = {"model": args.model, "n": args.num, "prompts": "certify", "rows": {}}
    for name, config in rows.items():
        with accelerated(pipe, [config]):
            drawn = draw(prompts, 0)
            session = session_of(pipe)
            assert session is not None
            parts = [quantised_of(runtime) for runtime in session.runtimes]
            before, now = sum(part.bytes_before for part in parts), sum(part.bytes_now() for part in parts)
        scores = differences(drawn, plain, perceptual=available_perceptual())
        said = {key: sum(values) / len(values) for key, values in scores.items()}
        worst = min(scores["psnr_db"])
        result["rows"][name] = {**said, "worst_psnr_db": worst, "bytes": now, "bytes_plain_fp32": before}
        print(
            f"{name:40s} {now / before:.3f} of fp32", {key: round(value, 4) for key, value in said.items()}, flush=True
        )
        if args.pictures is not None:
            save(args.pictures / f"{args.model} {name}.png", plain, drawn)
        if args.output is not None:
            args.output.parent.mkdir(parents=True, exist_ok=True)
            args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def fitted_rows(pipe: Any, run: Any, check: Any) -> dict[str, QuantizeConfig]:
    """The same widths, calibrated; and fixed scales, which is what calibration alone cannot save."""
    records = record_layers(pipe, run, check)
    found = {}
    for name, text, how in (
        ("w8a8, calibrated", "w8a8", {}),
        ("w8a8, one scale a run", "w8a8-static", {"alphas": (), "rotate": False, "correct_bias": False}),
        ("w4a8, balanced, to the nearest", "w4a8", {"by_columns": False}),
        ("w4a8, calibrated", "w4a8", {}),
        ("w4a4, calibrated", "w4a4", {}),
    ):
        stored: dict[str, torch.Tensor] = {}
        layers = {}
        for target in find_targets(pipe):
            for each in layers_of(target):
                key = full_name(target.name, each.path)
                if key in records and isinstance(each.layer, nn.Linear):
                    fit = fit_layer(each.layer, records[key], QuantScheme.parse(text), **how)  # type: ignore[arg-type]
                    stored |= fit.stored(key)
                    layers[key] = str(fit.scheme)
        found[name] = QuantizeConfig(
            bits=text.removesuffix("-static"), layers=layers, stored=stored, backend="integers"
        )
    return found


def save(path: Path, plain: torch.Tensor, drawn: torch.Tensor) -> None:
    """Plain above, quantised below; of a video its middle frames."""
    from PIL import Image

    pairs = [each if each.dim() == 4 else each[:, each.shape[1] // 2] for each in (plain, drawn)]
    sheet = torch.cat([torch.cat(list(each), 2) for each in pairs], 1)
    array = (sheet.permute(1, 2, 0) * 255).round().byte().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).resize((array.shape[1] * 2, array.shape[0] * 2), Image.Resampling.NEAREST).save(path)


if __name__ == "__main__":
    main()
