"""Time of whole runs of a pipeline: fp32, bf16, and quantised by each that multiplies; interleaved, in one process.

    taskset -c 1 python benchmarks/quant_whole.py emoji-flux --output benchmarks/results/quant-whole-emoji-flux.json

Wall clock, and the time of the process beside it, which others on the machine do not lengthen. Rows of torchao are
there where it is installed (``pip install dit-accel[torchao]``); compiled rows take ``--compile``.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from quant_common import save

from dit_accel import CompileConfig, QuantizeConfig, accelerate_pipeline, load_embedded
from dit_accel.pipelines.generation import GenerationSettings, generate, makes_video
from dit_accel.prompts import load_prompts

WARMUP = 1


def passes_of(torchao: bool, compiled: bool) -> dict[str, tuple[Any, ...]]:
    """By name; ``None`` of a pass stands for a plain run."""
    found: dict[str, tuple[Any, ...]] = {"plain": ()}
    for bits in ("w8a8", "w4a8"):
        found[f"{bits}, fastest way"] = (QuantizeConfig(bits=bits, backend="auto"),)
        found[f"{bits}, integers"] = (QuantizeConfig(bits=bits, backend="integers"),)
        if torchao:
            found[f"{bits}, torchao"] = (QuantizeConfig(bits=bits, backend="torchao"),)
    if compiled:
        found |= {f"{name}, compiled": (*passes, CompileConfig()) for name, passes in list(found.items())}
    return found


def measured(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, Any]]:
    """Seconds of each in turn."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for number in range(rounds + WARMUP):
        for name, run in runs.items():
            wall, own = time.perf_counter(), time.process_time()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number >= WARMUP:
                taken[name].append((time.perf_counter() - wall, time.process_time() - own))
    rows: dict[str, dict[str, Any]] = {}
    for name, pairs in taken.items():
        walls, own = ([pair[k] for pair in pairs] for k in (0, 1))
        rows[name] = {"wall_s": statistics.median(walls), "process_s": statistics.median(own), "walls_s": walls}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--num", type=int, default=4, help="prompts of a run, in one batch")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        import torchao  # noqa: F401
    except ImportError:
        has_torchao = False
    else:
        has_torchao = True
    settings = GenerationSettings(num_inference_steps=args.steps)
    runs: dict[str, Callable[[], object]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        pipe = load_embedded(args.model).to(device, dtype)
        pipe.set_progress_bar_config(disable=True)
        kind = "video" if makes_video(pipe) else "image"
        prompts = load_prompts("certify", kind).prompts[: args.num]
        for name, passes in passes_of(has_torchao, args.compile).items():
            own = copy.deepcopy(pipe)
            if passes:
                accelerate_pipeline(own, list(passes))
            short = "fp32" if dtype == torch.float32 else "bf16"
            runs[f"{short}, {name}"] = lambda own=own, prompts=prompts: generate(  # type: ignore[misc]
                own, prompts, range(len(prompts)), settings
            )
    result: dict[str, Any] = {"model": args.model, "n": args.num, "rounds": args.rounds}
    result["rows"] = measured(runs, args.rounds)
    base = {clock: result["rows"]["bf16, plain"][clock] for clock in ("wall_s", "process_s")}
    for name, row in result["rows"].items():
        ratios = ", ".join(f"{clock} {base[clock] / row[clock]:.2f}x" for clock in base)
        print(f"{name:32s} {row['wall_s']:7.2f} s, of the process {row['process_s']:7.2f} s; of bf16: {ratios}")
    save(args.output, result)


if __name__ == "__main__":
    main()
