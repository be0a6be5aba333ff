"""What does it cost a video to leave out attention, with and without an order of tokens for each head?

    python benchmarks/attention_quality.py                # emoji-wan, prompts that nothing was calibrated on

Masks come from ``search`` prompts, the videos from ``certify`` prompts. What is compared is the same prompt and seed,
computed whole. Stopped and called again, it goes on where it was.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from dit_accel import accelerated, load_embedded, summary
from dit_accel.calibration.attention import AttentionRecord, choose_paro, record_attention
from dit_accel.evaluation.compare.compare import effects_of
from dit_accel.evaluation.metrics.fidelity import fidelity
from dit_accel.evaluation.metrics.perceptual import available_perceptual
from dit_accel.evaluation.progress_files import claim, read_json, write_json
from dit_accel.evaluation.reports.environment import collect_environment, command_line
from dit_accel.passes.attention.layout import TokenLayout
from dit_accel.pipelines.generation import GenerationSettings, generate
from dit_accel.prompts import load_prompts

FORMAT = "dit-accel/attention-quality"
DENSITIES = (0.3, 0.5, 0.1, 0.2)  # the most telling first: it may be stopped
ORDERS = {"chosen": tuple(range(6)), "raster": (0,)}
SEARCH_SEED = 50_000
RESULTS = Path(__file__).parent / "results"


def main(
    model: Annotated[str, typer.Option(help="An embedded video pipeline.")] = "emoji-wan",
    num: Annotated[int, typer.Option(help="Videos.")] = 6,
    num_search: Annotated[int, typer.Option(help="Prompts to calibrate with.")] = 4,
    block: Annotated[int, typer.Option(help="Tokens in a block.")] = 32,
    parts: Annotated[int, typer.Option(help="Parts of a run, each with masks of its own.")] = 4,
    work: Annotated[Path, typer.Option(help="Keeps what is done.")] = Path("build/attention"),
    output: Annotated[Path | None, typer.Option("-o", help="Where the result goes.")] = None,
) -> None:
    """Calibrate, draw, compare, and write the result."""
    pipe = load_embedded(model)
    pipe.set_progress_bar_config(disable=True)
    settings = GenerationSettings()
    identity = {"model": model, "num": num, "num_search": num_search, "block": block, "parts": parts}
    claim(work / "job.json", identity, "a measurement of attention")
    search = load_prompts("search", "video").prompts[:num_search]
    held_out = load_prompts("certify", "video").prompts[:num]
    seeds = range(SEARCH_SEED, SEARCH_SEED + num_search)

    def recorded() -> dict[str, Any]:
        found = record_attention(pipe, lambda: generate(pipe, search, seeds, settings), block=block, parts=parts)
        return {"sums": found.sums, "layers": found.layers, "size": found.layout.size, "text": found.layout.text}

    kept = _kept(work / "record.pt", recorded)
    layout = TokenLayout(kept["size"], kept["text"])
    record = AttentionRecord(layout=layout, layers=kept["layers"], block=block, sums=kept["sums"])
    plain: torch.Tensor = _kept(work / "plain.pt", lambda: generate(pipe, held_out, range(num), settings))
    rows: list[dict[str, Any]] = (read_json(work / "rows.json") or {"rows": []})["rows"]
    for density in DENSITIES:
        for name, orders in ORDERS.items():
            if any((row["density"], row["orders"]) == (density, name) for row in rows):
                continue
            rows.append(_measured(pipe, record, plain, held_out, settings, density, name, orders))
            write_json(work / "rows.json", {"rows": rows})
            print({key: value for key, value in rows[-1].items() if key != "per_video"})
    result = {
        "format": FORMAT,
        "environment": collect_environment().model_dump(),
        "command": command_line(),
        "settings": {**identity, "tokens": record.layout.length, "prompts": list(held_out)},
        "rows": sorted(rows, key=lambda row: (-row["density"], row["orders"])),
    }
    path = output or RESULTS / f"attention-{model}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _measured(
    pipe: Any,
    record: AttentionRecord,
    plain: torch.Tensor,
    prompts: tuple[str, ...],
    settings: GenerationSettings,
    density: float,
    name: str,
    orders: tuple[int, ...],
) -> dict[str, Any]:
    config = choose_paro(record, density=density, orders=orders)
    with accelerated(pipe, config, strict=True):
        drawn = generate(pipe, prompts, range(len(prompts)), settings)
        effect = effects_of(summary(pipe))
    scores = fidelity(drawn, plain, perceptual=[each for each in available_perceptual() if each == "st_lpips"])
    per_video = {key: list(values) for key, values in asdict(scores).items() if values}
    assert effect is not None
    return {
        "density": density,
        "orders": name,
        "mass": _mass(record, config),
        "not_computed_frac": effect.passes[0].actual_frac,
        "order_counts": config.orders.flatten().long().bincount(minlength=6).tolist(),
        **{key: sum(values) / len(values) for key, values in per_video.items()},
        "per_video": per_video,
    }


def _mass(record: AttentionRecord, config: Any) -> float:
    """Share of the recorded weights that the blocks hold."""
    held = 0.0
    for part in range(config.num_parts):
        for layer in range(len(config.layers)):
            sums = record.sums[part, layer].gather(
                0, config.orders[layer].long()[None, :, None, None].expand(1, -1, *record.sums.shape[-2:])
            )[0]
            held += float((sums * config.mask(part, layer)[0]).sum((-1, -2)).mean())
    return held / (config.num_parts * len(config.layers))


def _kept(path: Path, make: Any) -> Any:
    """What is in a file of ours, or what ``make`` makes, from then on in that file."""
    if not path.is_file():
        made = make()
        partial = path.with_suffix(".partial")
        torch.save(made, partial)
        partial.rename(path)
    return torch.load(path)


if __name__ == "__main__":
    typer.run(main)
