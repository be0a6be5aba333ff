"""What a calibrated trajectory plan is worth away from where it was calibrated.

    python benchmarks/transfer.py emoji-flux                 # the shipped plan of the preset fast, on held-out prompts
    python benchmarks/transfer.py emoji-wan --num 6 --presets balanced

Each case changes one thing for the plain and the accelerated run alike: seeds, guidance, number of steps, a LoRA, the
dtype. Beside it stands the plain pipeline in as many steps as the plan computes evaluations. Then the plan's weights
are fitted anew on other numbers of search prompts. Every number is of held-out prompts. The report is
written after every case; stopped, the same command goes on.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from dit_accel import AccelerationPlan, accelerated, load_embedded, summary
from dit_accel.calibration.calibrate import SEED
from dit_accel.calibration.fit import fit
from dit_accel.calibration.recording import record
from dit_accel.errors import AccelerationWarning
from dit_accel.evaluation.metrics.fidelity import fidelity
from dit_accel.evaluation.metrics.perceptual import available_perceptual
from dit_accel.evaluation.progress_files import claim, read_json, write_json
from dit_accel.evaluation.reports.environment import collect_environment, command_line
from dit_accel.families.targets import find_targets
from dit_accel.passes.trajectory.config import TrajectoryConfig
from dit_accel.pipelines.generation import GenerationSettings, generate, makes_video
from dit_accel.prompts import load_prompts
from dit_accel.session.presets import resolve_preset

RESULTS = Path(__file__).parent / "results"
OTHER_SEEDS = 90_000
LORA_RANK, LORA_STD = 8, 0.05
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
BATCH = 8


class Trial:
    """Pictures of one pipeline, plain and accelerated, and what lies between them."""

    def __init__(self, pipe: Any, count: int) -> None:
        self.pipe = pipe
        self.prompts = load_prompts("certify", "video" if makes_video(pipe) else "image").prompts[:count]
        self.perceptual = [name for name in available_perceptual() if name == "st_lpips"]
        self._plain: dict[tuple[GenerationSettings, int], torch.Tensor] = {}

    def plain(self, settings: GenerationSettings, seed: int = 0) -> torch.Tensor:
        """All held-out prompts without a plan, drawn once: a trial is of one pipeline as it is."""
        if (settings, seed) not in self._plain:
            self._plain[settings, seed] = self.draw(settings, seed)
        return self._plain[settings, seed]

    def draw(self, settings: GenerationSettings, seed: int = 0) -> torch.Tensor:
        """All held-out prompts."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AccelerationWarning)
            size = 1 if makes_video(self.pipe) else BATCH
            seeds = range(seed, seed + len(self.prompts))
            return generate(self.pipe, self.prompts, seeds, settings, batch_size=size)

    def scores(self, made: torch.Tensor, plain: torch.Tensor) -> dict[str, float]:
        """Mean and worst PSNR, and mean ST-LPIPS where it is installed."""
        measured = fidelity(made, plain, perceptual=self.perceptual)
        in_order = sorted(measured.psnr_db)
        worst = in_order[: max(1, len(in_order) // 20)]
        found = {"psnr_db": sum(in_order) / len(in_order), "worst_db": sum(worst) / len(worst)}
        if measured.st_lpips is not None:
            found["st_lpips"] = sum(measured.st_lpips) / len(measured.st_lpips)
        return {name: round(value, 4) for name, value in found.items()}

    def compare(self, plan: AccelerationPlan, settings: GenerationSettings, seed: int = 0) -> dict[str, Any]:
        """The plan, and fewer plain steps, against the plain run of the same settings."""
        plain = self.plain(settings, seed)
        with accelerated(self.pipe, plan):
            made = self.draw(settings, seed)
            run = summary(self.pipe).denoisers[0].last_run
            assert run is not None
        steps, computed = run.num_steps, round(run.num_steps * (1 - run.answered / run.calls))
        fewer = self.plain(replace(settings, num_inference_steps=computed), seed)
        return {
            "steps": steps,
            "computed": computed,
            "plan": self.scores(made, plain),
            "fewer_steps": self.scores(fewer, plain),
        }

    def fitted(self, plan: AccelerationPlan, settings: GenerationSettings, count: int) -> AccelerationPlan:
        """The plan with its weights fitted anew, on so many search prompts."""
        searched = load_prompts("search", "video" if makes_video(self.pipe) else "image").prompts[:count]

        def draw(first: int, last: int) -> torch.Tensor:
            return generate(self.pipe, searched[first:last], range(SEED + first, SEED + last), settings)

        reference = record(self.pipe, draw, 0, count)
        config = trajectory_of(plan)
        assert config.computed is not None
        computed = [step for step, is_computed in enumerate(config.computed) if is_computed]
        branches = config.unconditional is not None
        made = fit(self.pipe, draw, reference, computed, 0, count, branches=branches).config
        return replace(plan, passes=(made,), certificate=None)


def trajectory_of(plan: AccelerationPlan) -> TrajectoryConfig:
    """The one pass of a plan that this script is about."""
    (config,) = plan.passes
    assert isinstance(config, TrajectoryConfig)
    return config


def between(one: AccelerationPlan, other: AccelerationPlan) -> AccelerationPlan:
    """The plan half way between two fits of the same computed steps."""
    first, second = trajectory_of(one), trajectory_of(other)
    halves = {"weights": _half(first.weights, second.weights)}
    if first.unconditional is not None:
        halves["unconditional"] = _half(first.unconditional, second.unconditional)
    return replace(one, passes=(replace(first, **halves),))


def _half(one: torch.Tensor | None, other: torch.Tensor | None) -> torch.Tensor:
    assert one is not None and other is not None
    return (one + other) / 2


@contextmanager
def with_lora(pipe: Any) -> Iterator[None]:
    """A random LoRA on all attention projections, fused, strong enough to change what is drawn."""
    denoiser = getattr(pipe, "transformer", None) or pipe.unet
    drawn = torch.Generator().manual_seed(0)
    kept = {}
    for name, module in denoiser.named_modules():
        if isinstance(module, torch.nn.Linear) and name.endswith(LORA_TARGETS):
            kept[module] = module.weight.data
            down = (2 * torch.rand(LORA_RANK, module.in_features, generator=drawn) - 1) / module.in_features**0.5
            up = LORA_STD * torch.randn(module.out_features, LORA_RANK, generator=drawn)
            module.weight.data = module.weight.data + (up @ down).to(module.weight)
    try:
        yield
    finally:
        for module, weight in kept.items():
            module.weight.data = weight


@contextmanager
def in_bfloat16(pipe: Any) -> Iterator[None]:
    """The whole pipeline in bfloat16; its weights are the same ones as before afterwards."""
    modules = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    kept = [{name: tensor.clone() for name, tensor in module.state_dict().items()} for module in modules]
    pipe.to(torch.bfloat16)
    try:
        yield
    finally:
        pipe.to(torch.float32)
        for module, weights in zip(modules, kept, strict=True):
            module.load_state_dict(weights)


def cases(trial: Trial, plan: AccelerationPlan, fit_sizes: Sequence[int]) -> dict[str, Callable[[], dict[str, Any]]]:
    """Name to what measures it; the first one is the plan where it was made."""
    own = GenerationSettings()
    steps, scale = plan.conditions.num_steps, plan.conditions.guidance_scale
    assert steps is not None and scale is not None

    def guided(factor: float) -> GenerationSettings:
        return GenerationSettings(guidance_scale=factor * scale)

    def stepped(factor: float) -> GenerationSettings:
        return GenerationSettings(num_inference_steps=round(factor * steps))

    def theoretic() -> AccelerationPlan:
        config = trajectory_of(plan)
        return replace(plan, passes=(TrajectoryConfig(computed=config.computed),), certificate=None)

    def changed(change: Callable[[Any], Any]) -> dict[str, Any]:
        plain = trial.plain(own)
        with change(trial.pipe):
            other = Trial(trial.pipe, len(trial.prompts))
            return {**other.compare(plan, own), "plain_changes": trial.scores(other.plain(own), plain)}

    def refitted(factor: float) -> dict[str, Any]:
        return trial.compare(trial.fitted(plan, guided(factor), max(fit_sizes)), guided(factor))

    def interpolated() -> dict[str, Any]:
        ends = [trial.fitted(plan, guided(factor), max(fit_sizes)) for factor in (0.5, 1.5)]
        return trial.compare(between(*ends), own)

    found: dict[str, Callable[[], dict[str, Any]]] = {"as calibrated": lambda: trial.compare(plan, own)}
    found["other seeds"] = lambda: trial.compare(plan, own, OTHER_SEEDS)
    for factor in (0.5, 0.75, 1.25, 1.5):
        found[f"guidance x {factor:g}"] = lambda factor=factor: trial.compare(plan, guided(factor))  # type: ignore[misc]
    for factor in (0.7, 0.85, 1.25, 1.5):
        found[f"steps x {factor:g}"] = lambda factor=factor: trial.compare(plan, stepped(factor))  # type: ignore[misc]
    for factor in (0.7, 1.5):
        found[f"steps x {factor:g}, by theory"] = lambda factor=factor: trial.compare(theoretic(), stepped(factor))  # type: ignore[misc]
    found["a random LoRA"] = lambda: changed(with_lora)
    found["bfloat16"] = lambda: changed(in_bfloat16)
    for factor in (0.5, 1.5):
        found[f"guidance x {factor:g}, fitted there"] = lambda factor=factor: refitted(factor)  # type: ignore[misc]
    found["fits at guidance x 0.5 and x 1.5, averaged"] = interpolated
    for count in fit_sizes:
        found[f"fitted on {count} prompts"] = lambda count=count: trial.compare(trial.fitted(plan, own, count), own)  # type: ignore[misc]
    return found


def main(
    model: Annotated[str, typer.Argument(help="An embedded pipeline.")],
    preset: Annotated[str, typer.Option(help="Whose shipped plan.")] = "fast",
    num: Annotated[int, typer.Option(min=2, help="Held-out prompts.")] = 48,
    fits: Annotated[str, typer.Option(help="Numbers of search prompts to fit on, by comma.")] = "8,16,32,64",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of torch.")] = 1,
    output: Annotated[Path, typer.Option(help="Folder of the report.")] = RESULTS,
    work: Annotated[Path, typer.Option(help="Keeps what is measured until the report.")] = Path("outputs/transfer"),
) -> None:
    """Measure every case, one after another."""
    torch.set_num_threads(threads)
    pipe = load_embedded(model)
    pipe.set_progress_bar_config(disable=True)
    targets = find_targets(pipe)
    plan = resolve_preset(preset, targets)
    trial = Trial(pipe, num)
    settings = {"model": model, "preset": preset, "prompts": list(trial.prompts), "plan": plan.content_sha256()}
    folder = work / f"{model}-{preset}"
    claim(folder / "job.json", settings, "a measurement")
    measured = read_json(folder / "cases.json") or {}
    for name, measure in cases(trial, plan, [int(each) for each in fits.split(",")]).items():
        if name not in measured:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", AccelerationWarning)
                measured[name] = measure()
            write_json(folder / "cases.json", measured)
        result = measured[name]
        print(f"{name}: {result['plan']}, fewer steps {result['fewer_steps']}", flush=True)
        report = {
            "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "command": command_line(),
            "environment": collect_environment().model_dump(),
            "model": model,
            "preset": preset,
            "plan_sha256": plan.content_sha256(),
            "num": len(trial.prompts),
            "cases": measured,
        }
        write_json(output / f"transfer-{model}.json", report)


if __name__ == "__main__":
    typer.run(main)
