"""Puts a certification's batches together: the full report, and the certificate made from it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from dit_accel.errors import ConfigError
from dit_accel.evaluation.certify.job import BatchScores
from dit_accel.evaluation.certify.subject import CertifySubject
from dit_accel.evaluation.compare.compare import TOO_FEW
from dit_accel.evaluation.reports.metrics import fidelity_metrics
from dit_accel.evaluation.reports.records import Fidelity
from dit_accel.evaluation.reports.report import Effects, Report, ReportSample, Variant
from dit_accel.evaluation.reports.scores import FidelityScores
from dit_accel.plan.certificate import Certificate, minimum, one_or_all, sha256_of
from dit_accel.plan.claims import FewerSteps, Measured, Prompts, SpeedClaim
from dit_accel.plan.conditions import Conditions
from dit_accel.plan.fingerprint import digest, fingerprint
from dit_accel.plan.weights import sample_weights
from dit_accel.prompts import load_prompts
from dit_accel.session.presets import BY_RULE_NOTE


def full_report(
    subject: CertifySubject, timing: Report, scores: Mapping[str, Sequence[BatchScores]], *, is_certificate: bool
) -> Report:
    """The timed comparison of the first batch, with fidelity and effects over all samples.

    Args:
        subject: What was measured.
        timing: Of its first batch.
        scores: By the kind of the variant, batch by batch.
        is_certificate: Whether there are samples enough for one; if not, a note says so.
    """
    stale = (TOO_FEW, BY_RULE_NOTE)
    notes = [note for note in timing.notes if not note.endswith(stale)]
    if not is_certificate:
        noun = f"{subject.kind}s"
        notes.append(f"{len(subject.samples)} {noun}: not a certificate, which takes {minimum(subject.kind)}")
    changes = {
        "settings": timing.settings.model_copy(
            update={
                "num_timed": len(subject.batches[0]),
                "prompt_list": "certify" if subject.shipped else None,
                "conditions": _conditions(scores["plan"]),
            }
        ),
        "samples": tuple(ReportSample(prompt=prompt, seed=seed) for prompt, seed in subject.samples),
        "variants": tuple(_with_scores(variant, scores.get(variant.kind)) for variant in timing.variants),
        "notes": tuple(notes),
    }
    return timing.model_copy(update=changes)


def certificate_of(subject: CertifySubject, report: Report, path: Path) -> Certificate:
    """The certificate of a full report that lies at ``path``."""
    settings, environment = report.settings, report.environment
    own = report.variant(subject.plan.name)
    rival = next((variant for variant in report.variants if variant.kind == "fewer_steps"), None)
    cost, speedup, effects = own.denoiser, own.speedup, own.effects
    assert cost is not None and cost.speedup is not None and speedup is not None
    main = None if effects is None else effects.main
    assert effects is not None and main is not None
    assert cost.speedup.ci95 is not None and speedup.ci95 is not None and settings.conditions is not None
    parameter = next(subject.targets[0].denoiser.parameters())
    device = parameter.device.type
    revision = environment.git_revision
    return Certificate(
        created_utc=report.created_utc,
        dit_accel=environment.dit_accel + (f" ({revision})" if revision else ""),
        model=settings.model,
        plan_sha256=subject.plan.content_sha256(),
        report_sha256=sha256_of(path),
        fingerprint=one_or_all(tuple(fingerprint(target) for target in subject.targets)),
        weights=one_or_all(tuple(sample_weights(target.denoiser) for target in subject.targets)),
        conditions=settings.conditions,
        num_inference_steps=settings.num_inference_steps,
        height=settings.height,
        width=settings.width,
        num_frames=settings.num_frames,
        prompts=_prompts(subject),
        fidelity=_measured(own),
        planned_frac=main.planned_frac,
        actual_frac=main.actual_frac,
        effects=effects.passes,
        speed=SpeedClaim(
            device=device,
            device_name=environment.cpu if device == "cpu" else environment.gpu or device,
            threads=environment.torch_threads if device == "cpu" else None,
            dtype=settings.dtype,
            batch_size=settings.batch_size,
            rounds=settings.repeats,
            denoiser_ratio=cost.speedup.ratio,
            denoiser_ci95=cost.speedup.ci95,
            run_ratio=speedup.ratio,
            run_ci95=speedup.ci95,
        ),
        rival=None if rival is None else _rival(rival),
    ).sealed()


def _with_scores(variant: Variant, batches: Sequence[BatchScores] | None) -> Variant:
    if batches is None:
        return variant
    values: dict[str, tuple[float, ...]] = {}
    for batch in batches:
        for name, some in batch.fidelity.items():
            values[name] = (*values.get(name, ()), *some)
    effects = [batch.effects for batch in batches if batch.effects is not None]
    return variant.model_copy(
        update={
            "fidelity": Fidelity.of(FidelityScores(**values)),
            "effects": Effects.mean(effects) if effects else variant.effects,
        }
    )


def _conditions(batches: Sequence[BatchScores]) -> Conditions:
    """Those of all batches, which must be the same ones."""
    first, *others = [batch.conditions for batch in batches if batch.conditions is not None]
    for other in others:
        differences = first.doubts(other)
        if differences:
            raise ConfigError(f"batches were made under different conditions: {'; '.join(differences)}")
    return first


def _prompts(subject: CertifySubject) -> Prompts:
    prompts = [prompt for prompt, _ in subject.samples]
    return Prompts.model_validate(
        {
            "source": "certify" if subject.shipped else "own",
            "kind": subject.kind,
            "version": load_prompts("certify", subject.kind).version if subject.shipped else None,
            "sha256": digest(prompts),
            "n": len(prompts),
            "first_seed": subject.samples[0][1],
        }
    )


def _measured(variant: Variant) -> dict[str, Measured]:
    assert variant.fidelity is not None
    return {
        name: Measured(mean=metric.mean, ci95=metric.ci95, worst5=metric.worst5, bound=metric.bound)
        for name, metric in fidelity_metrics(variant.fidelity).items()
    }


def _rival(variant: Variant) -> FewerSteps:
    assert variant.speedup is not None
    return FewerSteps(
        num_inference_steps=variant.num_inference_steps,
        run_ratio=variant.speedup.ratio,
        fidelity=_measured(variant),
    )
