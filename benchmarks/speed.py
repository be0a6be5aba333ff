"""How much of the speed-up that saved arithmetic allows does the clock show, eager and compiled?

    python benchmarks/speed.py                                      # emoji-pixart on this machine
    python benchmarks/speed.py --model pixart-xl-2 --size 512 --device cuda --dtype bfloat16

Variants run in turn in one process, each on a copy of its own with shared weights. Run nothing beside it.

On Linux CPUs, glibc hands memory back to the kernel whenever a kept value is freed, and takes it again page by page.
`make bench` therefore sets MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_; the report notes them.
"""

import os
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from subjects import SHAPES, EmbeddedSource, ShapeSource, Subject

from dit_accel import CompileConfig, GeneratorSpec, Schedule, StaticCacheConfig, accelerate_pipeline, summary
from dit_accel.evaluation.compare.compare import effects_of
from dit_accel.evaluation.compare.cost import DenoiserMeter, OverheadMeter, call_macs, run_macs
from dit_accel.evaluation.compare.timing import time_interleaved
from dit_accel.evaluation.metrics.fidelity import fidelity
from dit_accel.evaluation.reports.environment import collect_environment, command_line
from dit_accel.evaluation.reports.report import (
    DenoiserCost,
    Fidelity,
    Report,
    ReportSample,
    Settings,
    Speedup,
    Times,
    Variant,
)
from dit_accel.plan.config import PassConfig
from dit_accel.session.session import session_of

PROMPTS = ("red apple", "panda", "frog", "penguin")
MALLOC = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
RESULTS = Path(__file__).parent / "results"


def variants(steps: int, compiled: bool) -> dict[str, tuple[PassConfig, ...]]:
    """Name to pass configs; ``plain`` has none."""

    def every(n: int) -> StaticCacheConfig:
        return StaticCacheConfig(schedule=GeneratorSpec("every_n", n=n))

    nothing = StaticCacheConfig(schedule=Schedule(steps, {}), invariants=False)
    lossless = StaticCacheConfig(schedule=Schedule(steps, {}))
    chosen: dict[str, tuple[PassConfig, ...]] = {
        "plain": (),
        "compute everything": (nothing,),
        "lossless": (lossless,),
        "every 2": (every(2),),
        "every 3": (every(3),),
        "every 5": (every(5),),
    }
    if compiled:
        chosen |= {
            "compiled": (CompileConfig(),),
            "compiled, lossless": (lossless, CompileConfig()),
            "compiled, every 2": (every(2), CompileConfig()),
            "compiled, every 3": (every(3), CompileConfig()),
        }
    return chosen


class Candidate:
    """One variant on its own copy."""

    def __init__(self, subject: Subject, passes: tuple[PassConfig, ...]) -> None:
        self.subject = subject
        self.passes = passes
        self.result = torch.empty(0)
        self.denoiser_s: list[float] = []
        self.inputs: dict[str, Any] = {}
        if passes:
            accelerate_pipeline(subject.target, list(passes), scheduler=subject.scheduler, strict=True)
        eager = passes and not any(isinstance(config, CompileConfig) for config in passes)
        self.overhead = OverheadMeter(session_of(subject.target)) if eager else None
        self.overhead_s: list[float] = []

    def run(self) -> None:
        """One run; the denoiser's share of its time is kept."""
        before = self.overhead.inner_s if self.overhead else 0.0
        with DenoiserMeter(self.subject.denoiser) as meter, self.overhead or nullcontext():
            self.result = self.subject.run()
        self.denoiser_s.append(meter.seconds)
        self.inputs = meter.inputs or {}
        if self.overhead:
            self.overhead_s.append(meter.seconds - (self.overhead.inner_s - before))


def measure(benches: Mapping[str, Candidate], steps: int, repeats: int, warmup: int) -> tuple[Variant, ...]:
    """Time all variants in turn, then put the numbers together."""
    times = time_interleaved({name: bench.run for name, bench in benches.items()}, repeats=repeats, warmup=warmup)
    plain = benches["plain"]
    macs = call_macs(plain.subject.denoiser, plain.inputs)
    plain_macs = macs.total * steps
    rows = []
    for name, bench in benches.items():
        session = session_of(bench.subject.target)
        runtime = session.runtimes[0] if session else None
        total = run_macs(runtime, macs) if runtime else plain_macs
        own, base = bench.denoiser_s[warmup:], plain.denoiser_s[warmup:]
        first = name == "plain"
        images = bench.result.dim() == 4 and bench.result.shape[1] == 3
        scores = fidelity(bench.result, plain.result) if images and not first else None
        rows.append(
            Variant(
                name=name,
                kind="plain" if first else "plan",
                num_inference_steps=steps,
                plan=session.plan.to_dict() if session else None,
                certified=False if session else None,
                times=Times.of(times[name]),
                speedup=None if first else Speedup.of(times["plain"], times[name]),
                fidelity=scores and Fidelity.of(scores),
                effects=effects_of(summary(bench.subject.target)) if session else None,
                denoiser=DenoiserCost(
                    times=Times.of(own),
                    speedup=None if first else Speedup.of(base, own),
                    macs=total,
                    macs_linear=run_macs(runtime, macs, linear=True) if runtime else macs.linear * steps,
                    allowed_speedup=plain_macs / total,
                    overhead_frac=_overhead(bench, warmup),
                ),
            )
        )
    return tuple(rows)


def _overhead(bench: Candidate, warmup: int) -> float | None:
    shares = [a / b for a, b in zip(bench.overhead_s[warmup:], bench.denoiser_s[warmup:], strict=False)]
    return median(shares) if shares else None


def table(report: Report) -> Table:
    """The report for a terminal."""
    view = Table(title=f"{report.settings.model}, {report.settings.device}, median of {report.settings.repeats}")
    for column in (
        "variant",
        "whole run",
        "speed-up",
        "denoiser",
        "speed-up",
        "allowed by MACs",
        "attained",
        "overhead",
        "PSNR",
    ):
        view.add_column(column, justify="left" if column == "variant" else "right", no_wrap=column == "variant")
    for v in report.variants:
        cost = v.denoiser
        assert cost is not None and v.times is not None
        view.add_row(
            v.name,
            f"{v.times.median_s * 1e3:.0f} ms",
            f"{v.speedup.ratio:.2f}x" if v.speedup else "",
            f"{cost.times.median_s * 1e3:.0f} ms",
            f"{cost.speedup.ratio:.3f}x" if cost.speedup else "",
            f"{cost.allowed_speedup:.2f}x",
            f"{cost.attained_frac:.0%}" if cost.speedup else "",
            "" if cost.overhead_frac is None else f"{cost.overhead_frac:.2%}",
            f"{v.fidelity.psnr_db.mean:.1f}" if v.fidelity else "",
        )
    return view


def _notes(model: str) -> tuple[str, ...]:
    notes = ["random weights: times only, no quality"] if model in SHAPES else []
    notes += [f"{name}={os.environ[name]}" for name in MALLOC if name in os.environ]
    return tuple(notes)


def main(
    model: Annotated[str, typer.Option(help=f"Embedded pipeline, or a shape: {', '.join(SHAPES)}.")] = "emoji-pixart",
    size: Annotated[int, typer.Option(help="Pixels a side, for shapes.")] = 512,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 20,
    images: Annotated[int, typer.Option(help="Images a call, for pipelines (1 to 4).", min=1, max=4)] = 4,
    repeats: Annotated[int, typer.Option(help="Timed runs of each variant.")] = 10,
    warmup: Annotated[int, typer.Option(help="Untimed runs of each variant, first.")] = 3,
    device: Annotated[str, typer.Option(help="Torch device.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    threads: Annotated[int, typer.Option(help="Torch threads; 0 leaves torch's choice.")] = 0,
    compiled: Annotated[bool, typer.Option(help="Also compile.")] = True,
    output: Annotated[Path | None, typer.Option(help="Report file; default in benchmarks/results/.")] = None,
) -> None:
    """Measure, print, and write a report."""
    if threads:
        torch.set_num_threads(threads)
    kind: torch.dtype = getattr(torch, dtype)
    prompts = PROMPTS[:images]
    source: EmbeddedSource | ShapeSource
    if model in SHAPES:
        source, label = ShapeSource(model, size, steps, device, kind), f"{model}-{size}"
    else:
        source, label = EmbeddedSource(model, prompts, steps, device, kind), f"{Path(model).name}-x{images}"
    benches = {name: Candidate(source.subject(), passes) for name, passes in variants(steps, compiled).items()}
    rows = measure(benches, steps, repeats, warmup)
    subject = benches["plain"].subject
    result = benches["plain"].result
    report = Report(
        created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=("python", "benchmarks/speed.py", *command_line()[1:]),
        environment=collect_environment(),
        settings=Settings(
            model=source.model,
            pipeline_class=type(subject.target).__name__,
            denoiser_class=type(subject.denoiser).__name__,
            scheduler=type(subject.scheduler or subject.target.scheduler).__name__,
            num_inference_steps=steps,
            guidance_scale=None,
            height=size if model in SHAPES else result.shape[-2],
            width=size if model in SHAPES else result.shape[-1],
            batch_size=images if model not in SHAPES else 1,
            device=device,
            dtype=dtype,
            repeats=repeats,
            warmup=warmup,
        ),
        samples=tuple(ReportSample(prompt=prompt, seed=seed) for seed, prompt in enumerate(prompts))
        if model not in SHAPES
        else (),
        variants=rows,
        notes=_notes(model),
    )
    suffix = "" if any(name in os.environ for name in MALLOC) or device != "cpu" else "-default-malloc"
    place = output or RESULTS / f"speed-{label}-{torch.device(device).type}{suffix}.json"
    console = Console(width=max(120, Console().width))
    console.print(table(report))
    console.print(f"report: {report.save(place)}")


if __name__ == "__main__":
    typer.run(main)
