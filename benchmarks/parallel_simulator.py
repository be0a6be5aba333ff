"""The simulator of parallel-plan beside real runs: gloo ranks of this machine, with a link that is slowed down.

    python benchmarks/parallel_simulator.py                         # emoji-pixart, 2 ranks, some three minutes
    python benchmarks/parallel_simulator.py --model emoji-flux --delays 0,5,20

Every operation is made to take DELAY milliseconds, one after the other, as on a slow link. A run without delay gives
the computation (where ranks share a core there is no speed-up to be seen); the simulator then says how long runs with
delay take, and is compared with them. What it is asked is how much of the delay is hidden, which no shared core
changes. Beside the run without delay stands what ``parallel-plan`` takes the computation to be: that of a rank played
by one process, the others' values made up.
"""

import statistics
import time
import warnings
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from dit_accel import PatchParallelConfig, accelerated, load_embedded
from dit_accel.calibration.parallel_ways import measure
from dit_accel.errors import AccelerationWarning
from dit_accel.evaluation.progress_files import write_json
from dit_accel.evaluation.reports.environment import collect_environment, command_line
from dit_accel.passes.patch_parallel.apply import parallel_of
from dit_accel.passes.patch_parallel.launch import run_on_ranks
from dit_accel.passes.patch_parallel.simulate import Evaluation, Link, operations_of, repeated, simulate
from dit_accel.pipelines.generation import GenerationSettings, generate, makes_video
from dit_accel.session.session import session_of

RESULT = Path(__file__).parent / "results" / "parallel-simulator.json"
FORMAT = "dit-accel/parallel-simulator"
WARMUP = 2
WIDE = 1e6  # GB/s: only the latency counts
MODES = ("sync", "stale", "partial")


class SlowLink:
    """A transport on which each operation takes so many seconds, and only one is under way."""

    def __init__(self, inner: Any, seconds: float) -> None:
        self.rank, self.size = inner.rank, inner.size
        self._inner = inner
        self._seconds = seconds
        self._free = 0.0

    def all_gather(self, parts: torch.Tensor, own: torch.Tensor) -> "_Held":
        return self._slowed(self._inner.all_gather(parts, own))

    def exchange(self, sends: Any, receives: Any) -> "_Held":
        return self._slowed(self._inner.exchange(sends, receives))

    def close(self) -> None:
        self._inner.close()

    def _slowed(self, handle: Any) -> "_Held":
        self._free = max(time.perf_counter(), self._free) + self._seconds
        return _Held(handle, self._free)


class _Held:
    def __init__(self, handle: Any, until: float) -> None:
        self._handle = handle
        self._until = until

    def wait(self) -> None:
        self._handle.wait()
        time.sleep(max(0.0, self._until - time.perf_counter()))


def _on_one_rank(rank: int, size: int, pipe: Any, mode: Any, delays_ms: list[float], steps: int, repeats: int) -> Any:
    """Seconds of the denoiser by delay, and what an evaluation of each kind sends."""
    config = PatchParallelConfig(mode=mode, guidance="off", warmup=WARMUP)
    video = makes_video(pipe)
    settings = GenerationSettings(num_inference_steps=steps, num_frames=5 if video else None)
    found: dict[float, list[float]] = {delay: [] for delay in delays_ms}
    with accelerated(pipe, config):
        session = session_of(pipe)
        assert session is not None
        runtime = session.runtimes[0]
        parallel = parallel_of(runtime)
        assert parallel is not None
        comm = parallel.groups.everybody
        plain, spent = comm.transport, [0.0, 0.0]
        denoiser = runtime.target.denoiser
        denoiser.register_forward_pre_hook(lambda *_: spent.__setitem__(1, time.perf_counter()))
        denoiser.register_forward_hook(lambda *_: spent.__setitem__(0, spent[0] + time.perf_counter() - spent[1]))
        for _ in range(repeats + 1):  # the first round finds its memory
            for delay in delays_ms:
                comm.transport = SlowLink(plain, delay * 1e-3)
                spent[0] = 0.0
                generate(pipe, ["a red apple"], [0], settings)
                found[delay].append(spent[0])
        entries = list(parallel.groups.traffic)
    calls = runtime.stats.calls // steps
    kinds = [operations_of(entries, step, 2) for step in (0, WARMUP)]  # 2: one hop each, whatever their number
    return {"seconds": {delay: times[1:] for delay, times in found.items()}, "kinds": kinds, "calls": calls}


def played(pipe: Any, ranks: int, steps: int) -> dict[str, float]:
    """Seconds that a rank of each mode computes in a run, as ``parallel-plan`` measures it."""
    frames = 5 if makes_video(pipe) else None

    def run(count: int) -> object:
        return generate(pipe, ["a red apple"], [0], GenerationSettings(num_inference_steps=count, num_frames=frames))

    ways = {way.name: way for way in measure(pipe, run, ranks).ways}
    found = {}
    for mode in MODES:
        way = ways[f"patches, {mode}"]
        late = way.waiting if way.steady is None else way.steady
        found[mode] = WARMUP * way.waiting.compute_s + (steps - WARMUP) * late.compute_s
    return found


def main(
    model: Annotated[str, typer.Option(help="An embedded pipeline.")] = "emoji-pixart",
    ranks: Annotated[int, typer.Option(min=2)] = 2,
    delays: Annotated[str, typer.Option(help="Milliseconds of each operation, comma-separated, 0 first.")] = "0,5,20",
    steps: Annotated[int, typer.Option(min=6)] = 10,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    result: Annotated[Path, typer.Option()] = RESULT,
) -> None:
    """Compare."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", AccelerationWarning)
    pipe = load_embedded(model)
    pipe.set_progress_bar_config(disable=True)
    delays_ms = [float(each) for each in delays.split(",")]
    alone = played(pipe, ranks, steps)
    cells = []
    for mode in MODES:
        arguments = {"pipe": pipe, "mode": mode, "delays_ms": delays_ms, "steps": steps, "repeats": repeats}
        told = run_on_ranks(_on_one_rank, ranks, arguments=arguments, timeout_s=3600)
        slowest = {d: statistics.median(max(times) for times in _rounds(told, d)) for d in delays_ms}
        waiting, late = (
            Evaluation(compute_s=slowest[delays_ms[0]] / steps, operations=kind) for kind in told[0]["kinds"]
        )
        run = repeated(waiting, None if mode == "sync" else late, evaluations=steps, warm=WARMUP)
        for delay in delays_ms[1:]:
            foretold = simulate(run, Link(gb_per_s=WIDE, latency_us=delay * 1e3))
            cell = {
                "mode": mode,
                "delay_ms": delay,
                "measured_s": slowest[delay],
                "foretold_s": foretold.total_s,
                "without_delay_s": slowest[delays_ms[0]],
                "played_s": alone[mode],
                "all_delays_s": foretold.link_s,
                "hidden_foretold": foretold.hidden_frac,
                "hidden_measured": 1 - (slowest[delay] - slowest[delays_ms[0]]) / foretold.link_s,
            }
            cells.append(cell)
            print(
                f"{mode}, {delay:g} ms: {cell['measured_s']:.2f} s measured, {cell['foretold_s']:.2f} s foretold; "
                f"hidden {cell['hidden_measured']:.0%} measured, {cell['hidden_foretold']:.0%} foretold",
                flush=True,
            )
    write_json(
        result,
        {
            "format": FORMAT,
            "model": model,
            "ranks": ranks,
            "steps": steps,
            "warmup": WARMUP,
            "repeats": repeats,
            "cells": cells,
            "environment": collect_environment().model_dump(mode="json"),
            "command": list(command_line()),
            "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        },
    )


def _rounds(told: list[Any], delay: float) -> list[tuple[float, ...]]:
    """By round, what each rank took."""
    return list(zip(*(rank["seconds"][delay] for rank in told), strict=True))


if __name__ == "__main__":
    typer.run(main)
