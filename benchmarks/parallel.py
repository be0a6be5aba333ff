"""What patch parallelism costs in fidelity, and what it sends, on the embedded pipelines and local gloo ranks.

    python benchmarks/parallel.py                                   # all four, 2 and 4 ranks, 4 images, 2 videos
    python benchmarks/parallel.py --models emoji-flux --num 8

Each way of sharing a picture is compared with what one process draws of the same held-out prompts and seeds, with the
pipeline's own sampler and guidance, and every byte that ranks send is counted. No times: ranks here share cores, so a
speed-up is not to be seen, and none is claimed. Every finished picture is kept; stopped, the same command goes on.
"""

import warnings
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from dit_accel import PatchParallelConfig, accelerated, load_embedded
from dit_accel.embedded import list_embedded
from dit_accel.errors import AccelerationWarning
from dit_accel.evaluation.metrics.fidelity import differences
from dit_accel.evaluation.progress_files import read_json, write_json
from dit_accel.evaluation.reports.environment import collect_environment, command_line
from dit_accel.passes.patch_parallel.apply import parallel_of
from dit_accel.passes.patch_parallel.launch import run_on_ranks
from dit_accel.pipelines.generation import GenerationSettings, generate, makes_video
from dit_accel.prompts import load_prompts
from dit_accel.session.session import session_of

FORMAT = "dit-accel/parallel"
RESULT = Path(__file__).parent / "results" / "parallel.json"
STEPS = 20
FRAMES = 5  # of a video: attention over 16 would take an hour a cell on one core
WARMUPS = (1, 2, 4)
TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class Way:
    """One way of sharing a picture, as the table calls it."""

    name: str
    config: PatchParallelConfig


def ways() -> tuple[Way, ...]:
    """Rows of the table: exact ones first."""

    def patches(mode: Any, warmup: int = 4, **more: Any) -> PatchParallelConfig:
        return PatchParallelConfig(mode=mode, warmup=warmup, guidance="off", timeout_s=TIMEOUT_S, **more)

    found = [
        Way("guidance first, then sync", PatchParallelConfig(mode="sync", timeout_s=TIMEOUT_S)),
        Way("sync", patches("sync")),
    ]
    found += [
        Way(f"{mode}, warm-up {count}", patches(mode, count)) for mode in ("stale", "partial") for count in WARMUPS
    ]
    found.append(Way("stale, warm-up 4, int8", patches("stale", keys_and_values="int8")))
    found.append(Way("guidance first, then stale", PatchParallelConfig(warmup=4, timeout_s=TIMEOUT_S)))
    return tuple(found)


def picture(pipe: Any, prompt: str, seed: int, steps: int) -> torch.Tensor:
    """One image [1, 3, H, W], or video [1, F, 3, H, W]."""
    video = makes_video(pipe)
    settings = GenerationSettings(
        num_inference_steps=steps,
        num_frames=FRAMES if video else None,
        height=64 if video else None,
        width=64 if video else None,
    )
    return generate(pipe, [prompt], [seed], settings)


def _on_one_rank(
    rank: int, size: int, pipe: Any, config: PatchParallelConfig, prompt: str, seed: int, steps: int
) -> dict[str, Any]:
    with accelerated(pipe, config):
        made = picture(pipe, prompt, seed, steps)
        session = session_of(pipe)
        assert session is not None
        parallel = parallel_of(session.runtimes[0])
        assert parallel is not None
        sent = {str(phase): count.sent for phase, count in parallel.groups.traffic.by("phase").items()}
        stale = len({entry.step for entry, _ in parallel.groups.traffic if entry.phase == "steady"})
        guided = parallel.guided
    return {"made": made.numpy() if rank == 0 else None, "sent": sent, "stale": stale, "guided": guided}


def measure(pipe: Any, way: Way, size: int, prompt: str, seed: int, steps: int, plain: torch.Tensor) -> dict[str, Any]:
    """One picture drawn on ``size`` ranks: PSNR to one process, and bytes."""
    arguments = {"pipe": pipe, "config": way.config, "prompt": prompt, "seed": seed, "steps": steps}
    ranks = run_on_ranks(_on_one_rank, size, arguments=arguments, timeout_s=TIMEOUT_S)
    made = torch.from_numpy(ranks[0]["made"])
    return {
        "psnr_db": differences(made, plain)["psnr_db"][0],
        "equal": bool(torch.equal(made, plain)),
        "largest_difference": float((made - plain).abs().max()),
        "sent_by_rank": [rank["sent"] for rank in ranks],
        "stale_evaluations": ranks[0]["stale"],
        "guided": ranks[0]["guided"],
    }


def main(
    models: Annotated[str, typer.Option(help="Embedded pipelines, comma-separated; default: all.")] = "",
    ranks: Annotated[str, typer.Option(help="Ranks, comma-separated.")] = "2,4",
    num: Annotated[int, typer.Option(min=1, help="Images of each model; of videos half as many.")] = 4,
    steps: Annotated[int, typer.Option(min=5, help="Steps.")] = STEPS,
    result: Annotated[Path, typer.Option(help="Where the report goes, and is gone on with.")] = RESULT,
) -> None:
    """Measure, cell by cell."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", AccelerationWarning)
    report = read_json(result) or {"format": FORMAT, "cells": []}
    report |= {"environment": collect_environment().model_dump(mode="json"), "command": list(command_line())}
    done = {_key(cell): cell for cell in report["cells"]}
    for name in models.split(",") if models else list_embedded():
        pipe = load_embedded(name)
        pipe.set_progress_bar_config(disable=True)
        video = makes_video(pipe)
        prompts = load_prompts("certify", "video" if video else "image").prompts
        for number in range(max(1, num // 2) if video else num):
            plain = picture(pipe, prompts[number], number, steps)
            for size in (int(each) for each in ranks.split(",")):
                for way in ways():
                    cell = {"model": name, "ranks": size, "way": way.name, "steps": steps, "number": number}
                    if _key(cell) in done:
                        continue
                    cell |= measure(pipe, way, size, prompts[number], number, steps, plain)
                    done[_key(cell)] = cell
                    report["cells"] = list(done.values())
                    report["created_utc"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
                    write_json(result, report)
                    print(f"{name}, {size} ranks, {way.name}, picture {number}: {cell['psnr_db']:.1f} dB", flush=True)


def _key(cell: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(cell[name] for name in ("model", "ranks", "way", "steps", "number"))


if __name__ == "__main__":
    typer.run(main)
