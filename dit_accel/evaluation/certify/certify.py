"""Certifies a plan: measures it on held-out prompts, plain and accelerated with the same seeds, and binds the result.

A certificate says what the plan changes and how much faster it is, and nothing of how good the pictures are by
themselves. What it holds for is written into it; see :mod:`dit_accel.plan.certificate`.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_accel.api import PlanLike, accelerated, is_accelerated, summary
from dit_accel.errors import AccelerationWarning, ConfigError, PlanMismatchError
from dit_accel.evaluation.certify.job import JOB_FILE, BatchScores, CertifyJob
from dit_accel.evaluation.certify.result import certificate_of, full_report
from dit_accel.evaluation.certify.subject import CertifySubject, choose_subject
from dit_accel.evaluation.compare.compare import compare_plans, conditions_of, effects_of
from dit_accel.evaluation.metrics.fidelity import fidelity, require_metrics
from dit_accel.evaluation.metrics.perceptual import available_perceptual
from dit_accel.evaluation.progress_files import claim
from dit_accel.evaluation.reports.environment import Environment, collect_environment
from dit_accel.evaluation.reports.report import REPORT_FILE, Report, Variant
from dit_accel.pipelines.generation import GenerationSettings, generate
from dit_accel.plan.certificate import minimum
from dit_accel.plan.fingerprint import digest, scheduler_digest
from dit_accel.plan.plan import NOT_CERTIFIED, AccelerationPlan
from dit_accel.plan.weights import sample_weights

if TYPE_CHECKING:
    import torch

REPEATS = 10
OnProgress = Callable[[float, float], None]
"""Called with the seconds of work that are done and all there are, both estimated from the timed runs."""


def certify(
    pipe: Any,
    plan: PlanLike,
    folder: str | Path,
    *,
    model: str,
    settings: GenerationSettings | None = None,
    prompts: Sequence[str] | None = None,
    num_prompts: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    repeats: int = REPEATS,
    rival: bool = True,
    allow_small: bool = False,
    plain_folder: str | Path | None = None,
    command: Sequence[str] | None = None,
    on_progress: OnProgress | None = None,
) -> AccelerationPlan:
    """Measure a plan on held-out prompts and return it with a certificate, which is also saved.

    Killed and called again with the same arguments it goes on where it was, and ends in equal numbers; for that the
    plain images wait on disk (float32: 200 of 1024 x 1024 pixels take 2.5 GB) until it is done.

    Args:
        pipe: A text-to-image or text-to-video pipeline that is not accelerated; it is left as it was.
        plan: A preset, a plan or a path. A certificate it carries already is replaced.
        folder: Gets the plan with its certificate and the full report, ``report.json``.
        model: What the pipeline was loaded from, for the certificate.
        settings: Of the run it is to hold for; ``None``: the pipeline's own.
        prompts: Your own held-out prompts; ``None``: the list ``certify`` that ships for images or videos.
        num_prompts: Take the first so many only.
        seed: Of the first prompt; the next ones count up.
        batch_size: Images or videos a call; ``None``: 4 images, or 1 video.
        repeats: Timed rounds of the first batch, plain and accelerated interleaved, whole and denoiser alone.
        rival: Also run the plain pipeline with as many steps as fit into the plan's time.
        allow_small: With fewer than 200 images or 100 videos write a report, which is not a certificate.
        plain_folder: Where the plain images stay, so that other plans of the same model are certified without drawing
            them again; one folder does for all models, for it tells apart whatever they depend on. ``None``: they go
            when it is done.
        command: For the report; ``None``: this process's command line.
        on_progress: Called after every batch.

    Returns:
        The plan with its certificate; without one after ``allow_small`` with too few prompts.

    Raises:
        ConfigError: Too few prompts, prompts that plans are tuned on, a plan that does nothing, or a folder that
            holds something else.
        PlanMismatchError: The plan is not for this model or this run: whatever warns in use is refused here.
        MissingDependencyError: torchmetrics is not installed.
    """
    require_metrics()
    if is_accelerated(pipe):
        raise ConfigError("the pipeline is accelerated already; certify a plan on a plain one")
    subject = choose_subject(
        pipe, plan, model, settings or GenerationSettings(), prompts, num_prompts, seed=seed, batch_size=batch_size
    )
    enough = len(subject.samples) >= minimum(subject.kind)
    if not enough and not allow_small:
        raise ConfigError(
            f"{len(subject.samples)} {subject.kind}s are too few: a certificate takes {minimum(subject.kind)}. "
            "--allow-small (allow_small=True) writes a report, which is not a certificate."
        )
    environment = collect_environment()
    drawn_by = _plain_identity(subject, environment)
    identity = drawn_by | _identity(subject, environment, repeats=repeats, rival=rival)
    plain = None if plain_folder is None else _claimed(Path(plain_folder), drawn_by)
    job = CertifyJob(Path(folder), identity, plain)
    with _warnings_refused():
        timing = job.timing()
        if timing is None:
            timing = _timed(subject, repeats=repeats, rival=rival, command=command)
            job.keep_timing(timing)
        variants = [variant for variant in timing.variants if variant.kind != "plain"]
        scores = _scored(subject, job, timing, variants, on_progress)
    report = full_report(subject, timing, scores, is_certificate=enough)
    path = report.save(job.folder / REPORT_FILE)
    done = subject.plan
    if enough:
        notes = tuple(note for note in done.notes if NOT_CERTIFIED not in note)
        done = replace(done, notes=notes, certificate=certificate_of(subject, report, path))
        done.save_pretrained(job.folder)
    job.finish()
    return done


def _claimed(folder: Path, drawn_by: dict[str, Any]) -> Path:
    """The place for plain images of one kind in a folder for all of them."""
    place = folder / digest(drawn_by)[:16]
    claim(place / JOB_FILE, drawn_by, "plain images")
    return place


def _plain_identity(subject: CertifySubject, environment: Environment) -> dict[str, Any]:
    """Everything that the plain images depend on; no pass of ours is among it, so neither is our revision."""
    weights = [sample_weights(target.denoiser) for target in subject.targets]
    return {
        "model": subject.model,
        "weights": [None if sample is None else digest(asdict(sample)) for sample in weights],
        "scheduler": scheduler_digest(subject.pipe.scheduler),
        "settings": asdict(subject.settings),
        "prompts and seeds": digest(subject.samples),
        "batch size": subject.batch_size,
        "device": str(next(subject.targets[0].denoiser.parameters()).device),
        "machine and software": environment.model_dump(mode="json", exclude={"git_revision"}),
    }


def _identity(subject: CertifySubject, environment: Environment, *, repeats: int, rival: bool) -> dict[str, Any]:
    """What the numbers depend on besides."""
    return {
        "our revision": environment.git_revision,
        "plan": subject.plan.content_sha256(),
        "plan's name": subject.plan.name,
        "repeats": repeats,
        "rival": rival,
        "perceptual distances": available_perceptual(),
    }


@contextmanager
def _warnings_refused() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", AccelerationWarning)
        try:
            yield
        except (PlanMismatchError, AccelerationWarning) as error:
            raise PlanMismatchError(f"the plan cannot be certified for this run: {error}") from error


def _timed(subject: CertifySubject, *, repeats: int, rival: bool, command: Sequence[str] | None) -> Report:
    timing = compare_plans(
        subject.pipe,
        {subject.plan.name: subject.plan},
        subject.batches[0],
        subject.settings,
        model=subject.model,
        repeats=repeats,
        rivals=rival,
        batch_size=subject.batch_size,
        strict=True,
        denoiser=True,
        command=command,
    ).report
    effects = timing.variant(subject.plan.name).effects
    if effects is None or not effects.did_something:
        raise ConfigError(
            f"none of the passes of plan '{subject.plan.name}' did anything: there is nothing to certify"
        )
    return timing


def _scored(
    subject: CertifySubject,
    job: CertifyJob,
    timing: Report,
    variants: Sequence[Variant],
    on_progress: OnProgress | None,
) -> dict[str, list[BatchScores]]:
    """Scores of every batch, of each variant by its kind; what is on disk is not made again."""
    count = len(subject.batches)
    plain_s = _seconds(timing.variants[0])
    total_s = count * (plain_s + sum(_seconds(variant) for variant in variants))
    done_s = 0.0

    def did(seconds: float) -> None:
        nonlocal done_s
        done_s += seconds
        if on_progress is not None:
            on_progress(done_s, total_s)

    for number in range(count):
        if job.plain(number) is None:
            job.keep_plain(number, _made(subject, number, subject.settings))
        did(plain_s)
    scores: dict[str, list[BatchScores]] = {}
    for variant in variants:
        settings = replace(subject.settings, num_inference_steps=variant.num_inference_steps)
        todo = [number for number in range(count) if job.scores(variant.kind, number) is None]
        if len(todo) < count:
            did(_seconds(variant) * (count - len(todo)))
        is_plan = variant.kind == "plan"
        with accelerated(subject.pipe, subject.plan, strict=True) if is_plan and todo else nullcontext():
            for number in todo:
                images = _made(subject, number, settings)
                seen = summary(subject.pipe) if is_plan else None
                plain = job.plain(number)
                if plain is None:
                    raise ConfigError(f"plain images vanished from '{job.plain_folder}'; run the same command again")
                measured = fidelity(images, plain, perceptual=available_perceptual())
                values = {name: value for name, value in asdict(measured).items() if value is not None}
                batch = BatchScores(
                    fidelity=values,
                    effects=None if seen is None else effects_of(seen),
                    conditions=None if seen is None else conditions_of(seen),
                )
                job.keep_scores(variant.kind, number, batch)
                did(_seconds(variant))
        read = [job.scores(variant.kind, number) for number in range(count)]
        scores[variant.kind] = [batch for batch in read if batch is not None]
        assert len(scores[variant.kind]) == count
    return scores


def _seconds(variant: Variant) -> float:
    assert variant.times is not None
    return variant.times.median_s


def _made(subject: CertifySubject, number: int, settings: GenerationSettings) -> "torch.Tensor":
    batch = subject.batches[number]
    return generate(subject.pipe, [prompt for prompt, _ in batch], [seed for _, seed in batch], settings)
