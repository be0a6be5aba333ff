"""What plans by theory alone are worth, beside evenly spaced caching, on the embedded pipelines.

    python benchmarks/theory.py                                     # all four: 16 images, 6 videos
    python benchmarks/theory.py --models emoji-flux --num 8

Two choices make a plan without calibration: which evaluations are computed, and what answers the others. Each is made
in the way of every cache (evenly spaced; the last output again) and in ours, on held-out prompts, with the pipeline's
own sampler, steps and guidance. Quality only, no times: it may run beside anything. Even caching and our plan are
measured on all prompts first, then the two mixtures. Every finished cell is kept; stopped, the same command goes on.
"""

import warnings
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors.torch import load_file, save_file

from dit_accel import TrajectoryConfig, accelerated, load_embedded
from dit_accel.embedded import list_embedded
from dit_accel.errors import AccelerationWarning
from dit_accel.evaluation.metrics.fidelity import fidelity
from dit_accel.evaluation.metrics.perceptual import available_perceptual
from dit_accel.evaluation.progress_files import claim, read_json, write_json
from dit_accel.evaluation.reports.environment import collect_environment, command_line
from dit_accel.evaluation.reports.records import Metric
from dit_accel.pipelines.generation import GenerationSettings, generate, makes_video, steps_of
from dit_accel.plan.fingerprint import digest
from dit_accel.prompts import load_prompts
from dit_accel.schedules import theory

FORMAT = "dit-accel/theory"
RESULT = Path(__file__).parent / "results" / "theory.json"
SPEEDS = (1.5, 2.0, 3.0, 4.0)
EVEN, OURS = "even caching", "ours"
OUR_ANSWERS, OUR_STEPS = "evenly spaced, with our answers", "our steps, with the last output again"
RULES = (EVEN, OURS, OUR_ANSWERS, OUR_STEPS)
IMAGES_AT_ONCE, VIDEOS_AT_ONCE = 4, 1
METRICS = {"psnr_db": True, "st_lpips": False}  # and whether higher is better


def even_steps(num_steps: int, num_computed: int) -> tuple[int, ...]:
    """Evenly spaced from the first one on, as caches that compute every n-th step do it; n may be a fraction."""
    return tuple(k * num_steps // num_computed for k in range(num_computed))


def config_of(rule: str, num_steps: int, speedup: float) -> TrajectoryConfig:
    """The plan of a rule for a run of so many evaluations; all rules compute equally many."""
    ours = TrajectoryConfig(speedup=speedup)
    if rule == OURS:
        return ours
    chosen = ours.steps_of(num_steps)
    if rule in (EVEN, OUR_ANSWERS):
        chosen = even_steps(num_steps, len(chosen))
    computed = tuple(step in chosen for step in range(num_steps))
    if rule == OUR_ANSWERS:
        return TrajectoryConfig(computed=computed)
    weights = torch.zeros(num_steps, num_steps + 2, dtype=torch.float64)
    for step in range(num_steps):
        if not computed[step]:
            weights[step, max(node for node in chosen if node < step)] = 1.0
    return TrajectoryConfig(computed=computed, weights=weights)


def theory_digest(num_steps: int) -> str:
    """Of what theory says, so that results of another theory are not gone on with."""
    levels = [1 - step / num_steps for step in range(num_steps)]
    said: list[Any] = []
    for count in range(1, num_steps):
        chosen = theory.typical_steps(num_steps, count)
        weights = theory.theory_weights(levels, chosen, num_steps - 1)
        said.append([chosen, sorted((node, round(weight, 9)) for node, weight in weights.items())])
    return digest(said)


class Trial:
    """One embedded pipeline, plain and by every rule, block of prompts by block."""

    def __init__(self, name: str, num: int, work: Path) -> None:
        self.name = name
        self.pipe: Any = load_embedded(name)
        self.pipe.set_progress_bar_config(disable=True)
        self.is_video = makes_video(self.pipe)
        self.prompts = load_prompts("certify", "video" if self.is_video else "image").prompts[:num]
        self.size = VIDEOS_AT_ONCE if self.is_video else IMAGES_AT_ONCE
        self.steps = steps_of(self.pipe, GenerationSettings())
        self.folder = work / name
        identity = {"theory": theory_digest(self.steps), "packages": collect_environment().packages}
        claim(self.folder / "of.json", identity, "results")

    @property
    def blocks(self) -> range:
        """The first prompt of each block."""
        return range(0, len(self.prompts), self.size)

    def draw(self, first: int) -> torch.Tensor:
        """A block."""
        prompts = self.prompts[first : first + self.size]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AccelerationWarning)
            return generate(self.pipe, prompts, range(first, first + len(prompts)), GenerationSettings())

    def plain(self, first: int) -> torch.Tensor:
        """The plain pipeline's block, kept on disk."""
        path = self._path("plain", 1.0, first).with_suffix(".safetensors")
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({"drawn": self.draw(first)}, path.with_suffix(".part"))
            path.with_suffix(".part").rename(path)
        return load_file(path)["drawn"]

    def measure(self, rule: str, speedup: float, first: int) -> None:
        """Scores of a block, unless they are there."""
        path = self._path(rule, speedup, first)
        if read_json(path) is not None:
            return
        plain = self.plain(first)
        with accelerated(self.pipe, config_of(rule, self.steps, speedup)):
            made = self.draw(first)
        scores = fidelity(made, plain, perceptual=[name for name in available_perceptual() if name == "st_lpips"])
        write_json(path, {name: getattr(scores, name) for name in METRICS if getattr(scores, name) is not None})

    def cells(self) -> list[dict[str, Any]]:
        """What is measured of all prompts."""
        found = []
        for speedup in SPEEDS:
            for rule in RULES:
                parts = [read_json(self._path(rule, speedup, first)) for first in self.blocks]
                whole = [part for part in parts if part is not None]
                if len(whole) < len(parts):
                    continue
                cell: dict[str, Any] = {"speedup": speedup, "rule": rule}
                cell["computed"] = len(TrajectoryConfig(speedup=speedup).steps_of(self.steps))
                for name, higher in METRICS.items():
                    values = [value for part in whole for value in part.get(name, ())]
                    if values:
                        metric = Metric.of(values, higher_is_better=higher)
                        cell[name] = metric.model_dump(mode="json", include={"mean", "ci95", "worst5", "per_image"})
                found.append(cell)
        return found

    def told(self) -> dict[str, Any]:
        """The pipeline's part of the report."""
        scheduler = self.pipe.scheduler
        return {
            "name": self.name,
            "scheduler": type(scheduler).__name__,
            "prediction_type": scheduler.config.get("prediction_type") or "flow",
            "num_inference_steps": self.steps,
            "n": len(self.prompts),
            "makes": "videos" if self.is_video else "images",
            "cells": self.cells(),
        }

    def _path(self, rule: str, speedup: float, first: int) -> Path:
        word = rule.replace(" ", "-").replace(",", "")
        return self.folder / f"{word}-{speedup:g}x-{first:03d}.json"


def main(
    models: Annotated[str, typer.Option(help="Embedded names, by comma; empty: all.")] = "",
    num: Annotated[int, typer.Option(min=1, help="Images of the list 'certify'.")] = 16,
    num_videos: Annotated[int, typer.Option(min=1, help="Videos of it.")] = 6,
    mixtures: Annotated[bool, typer.Option(help="Measure the two mixtures too.")] = True,
    work: Annotated[Path, typer.Option(help="Where results are kept until the report.")] = Path("outputs/theory"),
    output: Annotated[Path, typer.Option(help="The report.")] = RESULT,
) -> None:
    """Measure, and write the report after every rule; what was measured of other models before stays in it."""
    torch.set_num_threads(1)
    names = [name.strip() for name in models.split(",") if name.strip()] or list_embedded()
    for name in names:
        trial = Trial(name, num_videos if "wan" in name else num, work)
        for part in (RULES[:2], RULES[2:]) if mixtures else (RULES[:2],):
            for first in trial.blocks:
                for speedup in reversed(SPEEDS):  # the quickest first, and what is to be compared together
                    for rule in part:
                        trial.measure(rule, speedup, first)
                print(f"{datetime.now():%H:%M:%S} {name}: {' and '.join(part)}, from prompt {first} on", flush=True)
            save(trial.told(), output)
    print(output)


def save(told: dict[str, Any], output: Path) -> None:
    """Put one pipeline's part into the report."""
    others = [part for part in (read_json(output) or {}).get("models", []) if part["name"] != told["name"]]
    environment = collect_environment()
    report = {
        "format": FORMAT,
        "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": ["python", "benchmarks/theory.py", *command_line()[1:]],
        "environment": environment.model_dump(mode="json"),
        "prompts": "certify",
        "models": sorted([*others, told], key=lambda part: part["name"]),
    }
    write_json(output, report)


if __name__ == "__main__":
    typer.run(main)
