"""Published techniques on the embedded pipelines, beside what their papers claim.

    python benchmarks/solvers.py measure emoji-pixart    # fidelity and saved arithmetic, a case after another
    python benchmarks/solvers.py measure emoji-sd --steps 20
    python benchmarks/solvers.py time emoji-sd --steps 20    # wall-clock, on an otherwise idle core

Techniques that are found on recorded runs are found on search prompts; every number is of held-out ones. A finished
case is kept; stopped, the same command goes on. The report is written anew after each.
"""

import warnings
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from safetensors.torch import load_file, save_file
from solver_cases import CASES, Case

from dit_accel import (
    AccelerationPlan,
    accelerate_pipeline,
    accelerated,
    load_embedded,
    remove_acceleration,
)
from dit_accel.calibration.calibrate import SEED
from dit_accel.errors import AccelerationWarning
from dit_accel.evaluation.compare.cost import DenoiserMeter, call_macs, run_macs
from dit_accel.evaluation.compare.timing import time_interleaved
from dit_accel.evaluation.metrics.fidelity import fidelity
from dit_accel.evaluation.metrics.perceptual import available_perceptual
from dit_accel.evaluation.progress_files import claim, read_json, write_json
from dit_accel.evaluation.reports.environment import collect_environment, command_line
from dit_accel.families.macs import MacsReport
from dit_accel.families.targets import find_targets
from dit_accel.passes.encoder_propagation.apply import NAME, Propagation
from dit_accel.pipelines.generation import GenerationSettings, generate, steps_of
from dit_accel.prompts import load_prompts
from dit_accel.runtime.denoiser import DenoiserRuntime
from dit_accel.session.session import session_of

RESULTS = Path(__file__).parent / "results"
WORK = Path("outputs/solvers")
NUM_SEARCH = 2  # prompts on which schedules are found
app = typer.Typer(add_completion=False)


class Trial:
    """One embedded pipeline, its held-out prompts, and what it costs plain.

    Args:
        model: Its name.
        num: Held-out prompts.
        steps: Scheduler steps; ``None``: the pipeline's own.
    """

    def __init__(self, model: str, num: int, steps: int | None) -> None:
        self.model = model
        self.settings = GenerationSettings(num_inference_steps=steps)
        self.pipe: Any = load_embedded(model)
        self.pipe.set_progress_bar_config(disable=True)
        self.prompts = load_prompts("certify", "image").prompts[:num]
        self.perceptual = [name for name in available_perceptual() if name == "st_lpips"]
        self.target = find_targets(self.pipe)[0]
        self.steps = steps_of(self.pipe, self.settings)

    def draw(self, num: int | None = None) -> torch.Tensor:
        """The held-out prompts, or the first of them."""
        prompts = self.prompts[:num]
        return generate(self.pipe, prompts, range(len(prompts)), self.settings)

    def search(self) -> torch.Tensor:
        """The search prompts."""
        prompts = load_prompts("search", "image").prompts[:NUM_SEARCH]
        return generate(self.pipe, prompts, range(SEED, SEED + NUM_SEARCH), self.settings)

    def plain(self) -> torch.Tensor:
        """What the plain pipeline draws; drawn once a measurement."""
        path = WORK / self.model / "plain.safetensors"
        if not path.exists():
            save_file({"images": self.draw()}, path)
        return load_file(path)["images"]

    def measure(self, case: Case) -> dict[str, Any]:
        """Fidelity to the plain pipeline, and what was saved."""
        plain = self.plain()
        plan = case.plan if isinstance(case.plan, str) else case.plan(self)
        with accelerated(self.pipe, plan), DenoiserMeter(self.target.denoiser) as meter:
            made = self.draw()
            session = session_of(self.pipe)
            assert session is not None and meter.inputs is not None
            (runtime,) = session.runtimes
            resolved, stats = session.plan, runtime.stats
            resolved.save_pretrained(folder_of(self.model, case.name))
            # Of the first call's inputs, with the whole batch in them; the ratio does not depend on it.
            accelerated_macs = macs_of(runtime, macs := call_macs(self.target.denoiser, meter.inputs))
        scores = fidelity(made, plain, perceptual=self.perceptual)
        worst = sorted(scores.psnr_db)[: max(1, len(scores.psnr_db) // 20)]
        return {
            "technique": case.technique,
            "steps": stats.num_steps,
            "calls": stats.calls,
            "answered": stats.answered,
            "macs_saved_frac": 1 - accelerated_macs / (macs.total * stats.calls),
            "psnr_db": sum(scores.psnr_db) / len(scores.psnr_db),
            "worst_db": sum(worst) / len(worst),
            "st_lpips": sum(scores.st_lpips) / len(scores.st_lpips) if scores.st_lpips else None,
            "plan_sha256": resolved.content_sha256(),
            "speedup": None,
        }


def macs_of(runtime: DenoiserRuntime, macs: MacsReport) -> int:
    """Multiply-accumulates of the last run: by its rows, or by how often the encoder and the decoder ran."""
    propagation = runtime.around_of(NAME)
    if not isinstance(propagation, Propagation):
        return run_macs(runtime, macs)
    calls, full = runtime.stats.calls, propagation.encoder_runs
    encoder = [site.info.id for site in propagation.encoder.sites]
    return full * macs.total + (calls - full) * macs.without(runtime.graph, encoder)


def write_report(model: str, num: int, steps: int, cases: dict[str, Any]) -> None:
    """Put one model's cases into the report."""
    path = RESULTS / "solvers.json"
    report = read_json(path) or {"models": {}}
    report["models"][model] = {
        "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command_line(),
        "environment": collect_environment().model_dump(),
        "num": num,
        "steps": steps,
        "cases": cases,
    }
    write_json(path, report)


def folder_of(model: str, name: str) -> Path:
    """Where a case's plan is kept, so that the very same one is timed."""
    return WORK / model / "".join(letter if letter.isalnum() else "-" for letter in name)


def state_of(model: str, num: int, steps: int | None) -> Path:
    """The file of a model's finished cases; the folder is claimed for these prompts."""
    prompts = list(load_prompts("certify", "image").prompts[:num])
    claim(WORK / model / "job.json", {"model": model, "prompts": prompts, "steps": steps}, "a measurement")
    return WORK / model / "cases.json"


@app.command()
def measure(
    model: Annotated[str, typer.Argument(help=f"One of {', '.join(CASES)}.")],
    num: Annotated[int, typer.Option(min=1, help="Held-out prompts.")] = 16,
    steps: Annotated[int | None, typer.Option(min=2, help="Scheduler steps; default: the pipeline's own.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of torch.")] = 1,
) -> None:
    """Measure fidelity and saved arithmetic of every case that is not yet measured."""
    torch.set_num_threads(threads)
    state = state_of(model, num, steps)
    done = read_json(state) or {}
    trial = Trial(model, num, steps)
    for case in CASES[model]:
        name = case.name
        if name not in done:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", AccelerationWarning)
                done[name] = trial.measure(case)
            write_json(state, done)
            write_report(model, num, trial.steps, done)
        shown = {key: value for key, value in done[name].items() if isinstance(value, int | float)}
        print(f"{name}: {shown}", flush=True)
    write_report(model, num, trial.steps, done)


@app.command()
def time(
    model: Annotated[str, typer.Argument(help=f"One of {', '.join(CASES)}.")],
    num: Annotated[int, typer.Option(min=1, help="Held-out prompts, as measured.")] = 16,
    steps: Annotated[int | None, typer.Option(min=2, help="Scheduler steps, as measured.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Images a run.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each case.")] = 5,
) -> None:
    """Time every measured case in turn with the plain pipeline, on one thread: the ratio of the medians."""
    torch.set_num_threads(1)
    state = state_of(model, num, steps)
    done = read_json(state) or {}
    trial = Trial(model, num, steps)
    plans = {name: AccelerationPlan.from_pretrained(folder_of(model, name)) for name in done}

    def run(plan: AccelerationPlan | None) -> None:
        if plan is not None:
            accelerate_pipeline(trial.pipe, plan)
        trial.draw(images)
        if plan is not None:
            remove_acceleration(trial.pipe)

    runs = {"plain": lambda: run(None), **{name: lambda plan=plan: run(plan) for name, plan in plans.items()}}
    times = time_interleaved(runs, repeats=repeats)
    for name in plans:
        done[name]["speedup"] = median(times["plain"]) / median(times[name])
        done[name]["timing"] = {"images": images, "repeats": repeats, "plain_s": median(times["plain"])}
        print(f"{name}: {done[name]['speedup']:.2f}x", flush=True)
    write_json(state, done)
    write_report(model, num, trial.steps, done)


if __name__ == "__main__":
    app()
