"""What does it cost a video to leave out attention, by every technique, with and without an order of tokens?

    taskset -c 1 python benchmarks/attention_quality.py           # emoji-wan, prompts that nothing was calibrated on
    python benchmarks/attention_quality.py --num 2                # a few videos of each first; more of them later
    python benchmarks/attention_quality.py --only PAROAttention --densities 0.3         # one question first
    python benchmarks/attention_quality.py --cached 0.5 --cached 0.3                    # with caching at these as well

Masks come from ``search`` prompts, the videos from ``certify`` prompts. What is compared is the same prompt and seed,
computed whole: how near the pixels stay, how much more it flickers, and whether it still moves as its prompt says.
The result is written anew after every video, so it may be stopped at any time. Called again it goes on where it was,
also with other techniques, other densities or more videos. The plain pipeline in fewer steps is the rival: 36 % of the
multiplications of emoji-wan are attention's scores, so that a density of 0.3, which leaves out 56 % of them in a run
whose first fifth is dense, saves as much as 16 steps in place of 20.
"""

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from attention_variants import CACHE, Variant, variants

from dit_accel import accelerated, load_embedded, summary
from dit_accel.calibration.attention_record import AttentionRecord, record_attention
from dit_accel.evaluation.compare.compare import effects_of
from dit_accel.evaluation.metrics.fidelity import fidelity
from dit_accel.evaluation.metrics.motion import motion_score
from dit_accel.evaluation.metrics.perceptual import available_perceptual
from dit_accel.evaluation.metrics.temporal import motion_right
from dit_accel.evaluation.progress_files import claim, read_json, write_json, write_whole
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One held-out prompt.

    Attributes:
        prompt: Itself.
        motion: The direction and the change of size that it asks for.
        plain: Its video, computed whole.
    """

    prompt: str
    motion: tuple[str, str]
    plain: torch.Tensor


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
    cached: Annotated[list[float], typer.Option(help="Densities at which every second step is also cached.")] = [  # noqa: B006
        0.3,
    ],
    only: Annotated[list[str] | None, typer.Option(help="Techniques to begin with; the rest another time.")] = None,
    fewer: Annotated[list[int], typer.Option(help="Steps of plain runs to compare with; repeatable.")] = [16],  # noqa: B006
    steps: Annotated[int | None, typer.Option(help="Default: the pipeline's own.")] = None,
    block: Annotated[int, typer.Option(help="Tokens in a block.")] = 32,
    parts: Annotated[int, typer.Option(help="Parts of a run, each with masks of its own.")] = 4,
    work: Annotated[Path, typer.Option(help="Keeps what is done.")] = Path("outputs/attention"),
    output: Annotated[Path | None, typer.Option("-o", help="Where the result goes.")] = None,
) -> None:
    """Calibrate, draw, compare, and write the result."""
    pipe = load_embedded(model)
    pipe.set_progress_bar_config(disable=True)
    settings = GenerationSettings(num_inference_steps=steps)
    identity = {"model": model, "num_search": num_search, "block": block, "parts": parts, "steps": steps}
    claim(work / "job.json", identity, "a measurement of attention")
    search = load_prompts("search", "video").prompts[:num_search]
    held_out = load_prompts("certify", "video")
    seeds = range(SEARCH_SEED, SEARCH_SEED + num_search)

    def recorded() -> dict[str, Any]:
        found = record_attention(
            pipe, lambda: generate(pipe, search, seeds, settings, batch_size=1), block=block, parts=parts
        )
        return {"sums": found.sums, "layers": found.layers, "size": found.layout.size, "text": found.layout.text}

    kept = _kept(work / "record.pt", recorded)
    layout = TokenLayout(kept["size"], kept["text"])
    record = AttentionRecord(layout=layout, layers=kept["layers"], block=block, sums=kept["sums"])
    rows: list[dict[str, Any]] = (read_json(work / "rows.json") or {"rows": []})["rows"]
    most = max([num, *(_videos(row) for row in rows)])
    motions = zip(*(held_out.labels[each][:most] for each in ("directions", "scales")), strict=True)
    asked = [
        Asked(prompt=prompt, motion=motion, plain=_plain(work / "plain", pipe, prompt, number, settings))
        for number, (prompt, motion) in enumerate(zip(held_out.prompts[:most], motions, strict=True))
    ]
    result = {
        "format": FORMAT,
        "environment": collect_environment().model_dump(),
        "command": command_line(),
        "settings": {**identity, "tokens": record.layout.length, "prompts": [each.prompt for each in asked]},
        "plain_motion_right": [_moves(each.plain, each) for each in asked],
    }
    path = output or RESULTS / f"attention-{model}.json"

    def write() -> None:
        ordered = sorted(rows, key=lambda row: (row["technique"], row["order"], row["cached"], -row["density"]))
        write_whole(path, (json.dumps({**result, "rows": ordered}, indent=1) + "\n").encode())

    def measure(
        name: str, density: float, passes: list[PassConfig], settings: GenerationSettings = settings, **more: Any
    ) -> None:
        row = next((each for each in rows if (each["name"], each["density"]) == (name, density)), None)
        if row is None:
            rows.append(
                row := {"name": name, "density": density, **more, "mass": _mass(record, passes), "per_video": {}}
            )
        for number in range(_videos(row), num):
            found = _measured(pipe, asked[number], number, settings, passes)
            for key, value in found.items():
                row["per_video"].setdefault(key, []).append(value)
            row.update({key: sum(values) / len(values) for key, values in row["per_video"].items()})
            write_json(work / "rows.json", {"rows": rows})
            write()
        said = {key: round(row[key], 4) for key in row["per_video"]}
        print(f"{name} at {density:g}: {said}", flush=True)

    every = variants(record, block)
    for density in densities:
        for way in every:
            if (only and way.technique not in only) or (way.cached and density not in cached):
                continue
            measure(way.name, density, way.passes(density), **_said(way))
    if not only or "cache" in only:
        measure("every second step cached", 1.0, [CACHE], technique="cache", order="", cached=True)
    for each in fewer if not only or "fewer steps" in only else ():
        few = GenerationSettings(num_inference_steps=each)
        measure(f"{each} steps", 1.0, [], few, technique="fewer steps", order=f"{each} steps", cached=False)
    write()


def _said(each: Variant) -> dict[str, Any]:
    return {"technique": each.technique, "order": each.order, "cached": each.cached}


def _measured(
    pipe: Any, asked: Asked, number: int, settings: GenerationSettings, passes: list[PassConfig]
) -> dict[str, float]:
    """What one video of one way is like."""
    with accelerated(pipe, passes) if passes else nullcontext():
        drawn = generate(pipe, [asked.prompt], [number], settings)
        effects = effects_of(summary(pipe)) if passes else None
    spared = [each for each in (effects.passes if effects is not None else ()) if each.what == WHAT]
    scores = fidelity(drawn, asked.plain, perceptual=[each for each in available_perceptual() if each == "st_lpips"])
    return {
        **{key: values[0] for key, values in asdict(scores).items() if values},
        "motion_right": _moves(drawn, asked),
        "not_computed_frac": (spared[0].actual_frac or 0.0) if spared else 0.0,
    }


def _moves(video: torch.Tensor, asked: Asked) -> float:
    return motion_right(video, [asked.motion], motion_score)[0]


def _mass(record: AttentionRecord, passes: list[PassConfig]) -> float | None:
    """Share of the recorded weights that the blocks hold; ``None``: nobody chose them from the record."""
    config = next((each for each in passes if isinstance(each, PAROAttentionConfig)), None)
    if config is None:
        return None
    held = 0.0
    for part in range(config.num_parts):
        for layer in range(len(config.layers)):
            sums = record.sums[part, layer].gather(
                0, config.orders[layer].long()[None, :, None, None].expand(1, -1, *record.sums.shape[-2:])
            )[0]
            held += float((sums * config.mask(part, layer)[0]).sum((-1, -2)).mean())
    return held / (config.num_parts * len(config.layers))


def _videos(row: dict[str, Any]) -> int:
    """How many there are in a row."""
    return len(row["per_video"].get("psnr_db", ()))


def _plain(folder: Path, pipe: Any, prompt: str, number: int, settings: GenerationSettings) -> torch.Tensor:
    """The video of a prompt, computed whole: float32 [1, F, 3, H, W]."""
    found: torch.Tensor = _kept(folder / f"{number:03}.pt", lambda: generate(pipe, [prompt], [number], settings))
    return found


def _kept(path: Path, make: Callable[[], Any]) -> Any:
    """What is in a file of ours, or what ``make`` makes, from then on in that file."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = make()
        partial = path.with_suffix(".partial")
        torch.save(made, partial)
        partial.rename(path)
    return torch.load(path)


if __name__ == "__main__":
    typer.run(main)
