"""How well does the table of site times foretell whole runs?

    python benchmarks/latency.py                      # emoji-pixart and emoji-sd on this machine
    python benchmarks/latency.py emoji-flux --steps 12

The table is measured (calibration/site_times.py), then whole runs of several plans are timed in turn and set beside
what it says of them. Run nothing beside it; ``--cpu-time`` counts the seconds of this process instead of those of the
wall, for a core that others share.
"""

import time
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from dit_accel import GeneratorSpec, StaticCacheConfig, TrajectoryConfig, load_embedded
from dit_accel.calibration.latency import largest
from dit_accel.calibration.site_times import check_site_times, measure_site_times, now
from dit_accel.pipelines.generation import GenerationSettings, generate
from dit_accel.plan.config import PassConfig
from dit_accel.schedules.graph import SiteGraph

PROMPTS = ("red apple", "panda", "frog", "penguin")


def plans(graph: SiteGraph) -> dict[str, tuple[PassConfig, ...]]:
    """Passes by name: schedules of sites, trajectories, and one inside the other."""

    def static(name: str, **more: Any) -> StaticCacheConfig:
        return StaticCacheConfig(schedule=GeneratorSpec(name, **more))

    half = TrajectoryConfig(speedup=2.0)
    chosen: dict[str, tuple[PassConfig, ...]] = {
        "compute everything": (StaticCacheConfig(schedule=GeneratorSpec("custom", reuse={}), invariants=False),),
        "every 2": (static("every_n", n=2),),
        "every 3": (static("every_n", n=3),),
        "trajectory 2x": (half,),
        "trajectory 2x, every 3 inside": (half, static("every_n", n=3)),
        "trajectory 3x": (TrajectoryConfig(speedup=3.0),),
    }
    if graph.select(kinds=("cross_attn",)):
        chosen["T-GATE"] = (static("t_gate", gate=6),)
    if graph.select(kinds=("up_block",)):
        chosen["DeepCache 3"] = (static("deepcache", n=3),)
    return chosen


def main(
    models: Annotated[list[str] | None, typer.Argument(help="Embedded pipelines.")] = None,
    steps: Annotated[int | None, typer.Option(help="Default: the pipeline's own.")] = None,
    batch: Annotated[int, typer.Option(min=1, max=len(PROMPTS))] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="Samples of each entry, and runs of each plan.")] = 3,
    cpu_time: Annotated[bool, typer.Option("--cpu-time", help="Seconds of this process.")] = False,
) -> None:
    """Measure, foretell, compare."""
    torch.set_num_threads(1)
    clock = time.process_time if cpu_time else now
    for model in models or ["emoji-pixart", "emoji-sd"]:
        pipe = load_embedded(model)
        pipe.set_progress_bar_config(disable=True)
        settings = GenerationSettings(num_inference_steps=steps)

        def run(pipe: Any = pipe, settings: GenerationSettings = settings) -> object:
            return generate(pipe, PROMPTS[:batch], range(batch), settings)

        began = time.monotonic()
        pricing = measure_site_times(pipe, run, rounds=rounds, clock=clock)
        took = time.monotonic() - began
        chosen = plans(next(iter(pricing.graphs.values())))
        found = check_site_times(pipe, run, pricing, chosen, repeats=rounds, clock=clock)
        table = Table(
            "plan", "foretold", "measured", "deviation", "TMACs", "linear", title=f"{model}, batch of {batch}"
        )
        for each in found:
            cost = pricing.of(chosen[each.name])
            assert cost.macs is not None and cost.linear_macs is not None
            macs = (f"{cost.macs / 1e12:.4f}", f"{cost.linear_macs / 1e12:.4f}")
            table.add_row(
                each.name, f"{each.predicted_s:.3f} s", f"{each.measured_s:.3f} s", f"{each.frac:+.1%}", *macs
            )
        Console(width=110).print(table)
        print(f"table measured in {took:.0f} s; largest deviation {largest(found):.1%}")


if __name__ == "__main__":
    typer.run(main)
