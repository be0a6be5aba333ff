"""What does it cost a video to leave out attention, by every technique, with and without an order of tokens?

    taskset -c 1 python benchmarks/attention_quality.py           # emoji-wan, prompts that nothing was calibrated on
    python benchmarks/attention_quality.py --densities 0.3 --num 2 --num-search 2       # to see that it runs
    python benchmarks/attention_quality.py --only PAROAttention --densities 0.3         # one question first

Masks come from ``search`` prompts, the videos from ``certify`` prompts. What is compared is the same prompt and seed,
computed whole: how near the pixels stay, how much more it flickers, and whether it still moves as its prompt says.
Stopped and called again, it goes on where it was.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from attention_variants import CACHE, Variant, variants

from dit_accel import accelerated, load_embedded, summary
from dit_accel.calibration.attention import AttentionRecord, record_attention
from dit_accel.evaluation.compare.compare import effects_of
from dit_accel.evaluation.metrics.fidelity import fidelity
from dit_accel.evaluation.metrics.motion import motion_score
from dit_accel.evaluation.metrics.perceptual import available_perceptual
from dit_accel.evaluation.metrics.temporal import motion_right
from dit_accel.evaluation.progress_files import claim, read_json, write_json
from dit_accel.evaluation.reports.environment import collect_environment, command_line
from dit_accel.passes.attention.layers import WHAT
from dit_accel.passes.attention.layout import TokenLayout
from dit_accel.passes.attention.paro_config import PAROAttentionConfig
from dit_accel.pipelines.generation import GenerationSettings, generate
from dit_accel.plan.config import PassConfig
from dit_accel.prompts import load_prompts

FORMAT = "dit-accel/attention-quality"
SEARCH_SEED = 50_000
RESULTS = Path(__file__).parent / "results"


def main(
    model: Annotated[str, typer.Option(help="An embedded video pipeline.")] = "emoji-wan",
    num: Annotated[int, typer.Option(help="Videos.")] = 12,
    num_search: Annotated[int, typer.Option(help="Prompts to calibrate with.")] = 4,
    densities: Annotated[list[float], typer.Option(help="The most telling first: it may be stopped.")] = [  # noqa: B006
        0.3,
        0.5,
        0.1,
        0.2,
    ],
    only: Annotated[list[str] | None, typer.Option(help="Techniques to begin with; the rest another time.")] = None,
    steps: Annotated[int | None, typer.Option(help="Default: the pipeline's own.")] = None,
    block: Annotated[int, typer.Option(help="Tokens in a block.")] = 32,
    parts: Annotated[int, typer.Option(help="Parts of a run, each with masks of its own.")] = 4,
    work: Annotated[Path, typer.Option(help="Keeps what is done.")] = Path("build/attention"),
    output: Annotated[Path | None, typer.Option("-o", help="Where the result goes.")] = None,
) -> None:
    """Calibrate, draw, compare, and write the result."""
    pipe = load_embedded(model)
    pipe.set_progress_bar_config(disable=True)
    settings = GenerationSettings(num_inference_steps=steps)
    identity = {"model": model, "num": num, "num_search": num_search, "block": block, "parts": parts, "steps": steps}
    claim(work / "job.json", identity, "a measurement of attention")
    search = load_prompts("search", "video").prompts[:num_search]
    held_out = load_prompts("certify", "video")
    prompts = held_out.prompts[:num]
    wanted = list(zip(held_out.labels["directions"][:num], held_out.labels["scales"][:num], strict=True))
    seeds = range(SEARCH_SEED, SEARCH_SEED + num_search)

    def recorded() -> dict[str, Any]:
        found = record_attention(pipe, lambda: generate(pipe, search, seeds, settings), block=block, parts=parts)
        return {"sums": found.sums, "layers": found.layers, "size": found.layout.size, "text": found.layout.text}

    kept = _kept(work / "record.pt", recorded)
    layout = TokenLayout(kept["size"], kept["text"])
    record = AttentionRecord(layout=layout, layers=kept["layers"], block=block, sums=kept["sums"])
    plain: torch.Tensor = _kept(work / "plain.pt", lambda: generate(pipe, prompts, range(num), settings))
    rows: list[dict[str, Any]] = (read_json(work / "rows.json") or {"rows": []})["rows"]

    def measure(name: str, density: float, passes: list[PassConfig], **more: Any) -> None:
        if any((row["name"], row["density"]) == (name, density) for row in rows):
            return
        found = _measured(pipe, record, plain, prompts, wanted, settings, passes)
        rows.append({"name": name, "density": density, **more, **found})
        write_json(work / "rows.json", {"rows": rows})
        said = {key: round(value, 4) for key, value in found.items() if isinstance(value, float)}
        print(f"{name} at {density:g}: {said}", flush=True)

    measure("every second step cached", 1.0, [CACHE], technique="cache", order="", cached=True)
    for density in densities:
        for each in variants(record, block):
            if only and each.technique not in only:
                continue
            measure(each.name, density, each.passes(density), **_said(each))
    judged = [float(value) for value in motion_right(plain, wanted, motion_score)]
    result = {
        "format": FORMAT,
        "environment": collect_environment().model_dump(),
        "command": command_line(),
        "settings": {**identity, "tokens": record.layout.length, "prompts": list(prompts)},
        "plain_motion_right": sum(judged) / len(judged),
        "rows": sorted(rows, key=lambda row: (row["technique"], row["order"], row["cached"], -row["density"])),
    }
    path = output or RESULTS / f"attention-{model}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _said(each: Variant) -> dict[str, Any]:
    return {"technique": each.technique, "order": each.order, "cached": each.cached}


def _measured(
    pipe: Any,
    record: AttentionRecord,
    plain: torch.Tensor,
    prompts: tuple[str, ...],
    wanted: list[tuple[Any, Any]],
    settings: GenerationSettings,
    passes: list[PassConfig],
) -> dict[str, Any]:
    with accelerated(pipe, passes):
        drawn = generate(pipe, prompts, range(len(prompts)), settings)
        effects = effects_of(summary(pipe))
    assert effects is not None
    spared = [each for each in effects.passes if each.what == WHAT]
    scores = fidelity(drawn, plain, perceptual=[each for each in available_perceptual() if each == "st_lpips"])
    per_video = {key: list(values) for key, values in asdict(scores).items() if values}
    per_video["motion_right"] = list(motion_right(drawn, wanted, motion_score))
    masses = [_mass(record, each) for each in passes if isinstance(each, PAROAttentionConfig)]
    return {
        **({"mass": masses[0]} if masses else {}),
        "not_computed_frac": spared[0].actual_frac if spared else 0.0,
        **{key: sum(values) / len(values) for key, values in per_video.items()},
        "per_video": per_video,
    }


def _mass(record: AttentionRecord, config: PAROAttentionConfig) -> float:
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
