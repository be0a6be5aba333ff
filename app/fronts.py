"""Puts a front together from what lies on disk: shipped plans with their certificates, and reports of rivals."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from dit_accel.app.plans import PRESET_ORDER, PlanFolder, plans_of, read_plan_file, shipped_folder
from dit_accel.app.points import CERTIFIED, NOT_CERTIFIED, Front, FrontPoint, Shown
from dit_accel.embedded import embedded_path, list_embedded
from dit_accel.errors import DitAccelError
from dit_accel.evaluation.reports.metrics import fidelity_metrics
from dit_accel.evaluation.reports.report import Report, Variant
from dit_accel.plan.certificate import Measured
from dit_accel.plan.facts import FIDELITY

OURS = "dit-accel"  # the name of our entries among the rivals
SAME_WORK = 0.002  # shares that differ by less are the same plan's work
NUM_WORST, NUM_TYPICAL = 2, 2


def report_folders() -> tuple[Path, ...]:
    """Where reports of rivals lie: of a source checkout only, they do not ship."""
    folder = embedded_path(models()[0]).parents[2] / "benchmarks" / "results"
    return (folder,) if folder.is_dir() else ()


def models() -> tuple[str, ...]:
    """Models that have plans or can have some: the embedded pipelines."""
    return tuple(list_embedded())


def front_of_model(model: str, reports: Sequence[Path] | None = None) -> Front:
    """What is known of an embedded pipeline.

    Args:
        model: Its name.
        reports: Folders with ``rivals-*.json``; ``None``: those of a checkout.
    """
    plans, notes = plans_of(shipped_folder() / model)
    plans = [plan for plan in plans if not plan.saves_memory_alone]
    contests: list[Report] = []
    for folder in report_folders() if reports is None else reports:
        for path in sorted(folder.glob(f"rivals-{model}-*.json")):
            try:
                contests.append(Report.load(path))
            except DitAccelError as error:
                notes.append(str(error))
    return assemble(model, plans, [report for report in contests if report.settings.model == model], notes)


def assemble(model: str, plans: Sequence[PlanFolder], contests: Sequence[Report], notes: Sequence[str] = ()) -> Front:
    """A front from plans and reports.

    Args:
        model: For the code that people take home.
        plans: Of this model.
        contests: Reports of comparisons; of two of the same step count the first counts.
        notes: What is to be said besides.
    """
    reports = [plan.report for plan in plans if plan.report is not None]
    points = [_plan_point(plan) for plan in plans]
    said = list(notes)
    for contest in contests:
        points += [_by_rule(variant, contest) for variant in contest.variants if _is_by_rule(variant, plans)]
        pairs = zip(points, plans, strict=False)
        points[: len(plans)] = [_measured_among_rivals(point, plan, contest) for point, plan in pairs]
    own = [variant for report in (*reports, *contests) for variant in report.variants if variant.kind == "fewer_steps"]
    points += _fewer_steps(own, [*reports, *contests])
    for contest in contests:
        points += [_rival(variant, contest) for variant in contest.variants if _is_rival(variant, plans)]
        said += [f"among rivals: {note}" for note in contest.notes]
    everything = [*reports, *contests]
    first = everything[0] if everything else None
    steps = first.settings.num_inference_steps if first else next((p.num_steps for p in points), 0)
    plain = FrontPoint(key="plain", label="plain", kind="plain", num_steps=steps)
    return Front(
        model=model,
        points=(plain, *_unique(points)),
        plain_s=_plain_seconds(everything),
        machine="" if first is None else machine_words(first),
        video=any(plan.certificate is not None and plan.certificate.num_frames is not None for plan in plans)
        or any(report.settings.num_frames is not None for report in everything)
        or any(plan.file.conditions.pipeline == "WanPipeline" for plan in plans),
        num_steps=steps,
        asked={} if first is None else asked_of(first),
        notes=tuple(said),
    )


def asked_of(report: Report) -> dict[str, float]:
    """What the runs of a report were asked for beside steps; an embedded pipeline's own size is not asked for."""
    settings = report.settings
    asked: dict[str, float | None] = {"guidance_scale": settings.guidance_scale}
    if settings.model not in models():
        asked |= {"height": settings.height, "width": settings.width, "num_frames": settings.num_frames}
    return {name: value for name, value in asked.items() if value is not None}


def seconds_a_sample(report: Report, variant: Variant) -> float | None:
    """Median seconds of a timed run, by the images or videos that it made."""
    if variant.times is None:
        return None
    return variant.times.median_s / (report.settings.num_timed or report.num_images)


def _plain_seconds(reports: Sequence[Report]) -> float | None:
    """Of the plain run: of reports from one machine the quickest, since others ran beside other work."""
    here = [report for report in reports if machine_words(report) == machine_words(reports[0])]
    found = [seconds_a_sample(report, report.variants[0]) for report in here]
    return min((each for each in found if each is not None), default=None)


def machine_words(report: Report) -> str:
    """Where a report was timed."""
    machine, settings = report.environment, report.settings
    if settings.device.startswith("cuda") and machine.gpu:
        return f"{machine.gpu}, {settings.dtype}, batch {settings.batch_size}"
    threads = f"{machine.torch_threads} thread{'s' if machine.torch_threads != 1 else ''}"
    return f"{machine.cpu} CPU, {threads}, {settings.dtype}, batch {settings.batch_size}"


def _plan_point(plan: PlanFolder) -> FrontPoint:
    steps = plan.file.conditions.num_steps or 0
    point = FrontPoint(
        key=f"ours/{plan.folder.name}",
        label=plan.name,
        kind="ours",
        num_steps=steps if plan.certificate is None else plan.certificate.num_inference_steps,
        folder=plan.folder,
        preset=plan.name if plan.folder.parent.parent == shipped_folder() else None,
        state=NOT_CERTIFIED if plan.why_not else CERTIFIED,
        words=(plan.why_not,) if plan.why_not or plan.certificate is None else plan.certificate.words(),
    )
    report = plan.report
    if report is None:
        return point
    variant = next((each for each in report.variants if each.kind == "plan"), None)
    return point if variant is None else _with_numbers(point, variant, report)


def _with_numbers(point: FrontPoint, variant: Variant, report: Report) -> FrontPoint:
    speedup = variant.speedup
    return replace(
        point,
        ratio=None if speedup is None else speedup.ratio,
        ratio_ci95=None if speedup is None else speedup.ci95,
        errors=_errors(variant),
        n=report.num_images,
        shown=_shown(variant, report),
    )


def _errors(variant: Variant) -> dict[str, Measured]:
    if variant.fidelity is None:
        return {}
    metrics = fidelity_metrics(variant.fidelity)
    return {
        name: Measured(mean=metrics[name].mean, ci95=metrics[name].ci95, worst5=metrics[name].worst5)
        for name in FIDELITY
        if name in metrics
    }


def _shown(variant: Variant, report: Report) -> tuple[Shown, ...]:
    """Two of the worst five per cent by PSNR, honestly, and the two in the middle."""
    if variant.fidelity is None:
        return ()
    values = variant.fidelity.psnr_db.per_image
    order = sorted(range(len(values)), key=lambda place: (values[place], place))
    worst = order[: max(1, len(order) // 20)][:NUM_WORST]
    middle = (len(order) - NUM_TYPICAL) // 2
    typical = [place for place in order[middle : middle + NUM_TYPICAL] if place not in worst]
    chosen = [(place, "worst 5 %") for place in worst] + [(place, "typical") for place in typical]
    return tuple(
        Shown(prompt=report.samples[place].prompt, seed=report.samples[place].seed, psnr_db=values[place], place=words)
        for place, words in chosen
    )


def _measured_among_rivals(point: FrontPoint, plan: PlanFolder, contest: Report) -> FrontPoint:
    """A plan without a certificate may still have been measured among the rivals, if that was this very plan."""
    if point.ratio is not None:
        return point
    for variant in contest.variants:
        if _is_ours(variant) and _preset(variant) == plan.name and same_work(plan, variant):
            said = f"measured among the rivals on {contest.made}, which makes no certificate"
            return replace(_with_numbers(point, variant, contest), words=(*point.words, said))
    return point


def same_work(plan: PlanFolder, variant: Variant) -> bool:
    """Whether what a contender was counted to save is what this plan saves: whole calls, and as many."""
    if variant.contender is None or variant.contender.action is None or plan.answered_frac is None:
        return False
    shares = variant.contender.action.saved_by_kind.values()
    return bool(shares) and all(abs(share - plan.answered_frac) < SAME_WORK for share in shares)


def _fewer_steps(variants: Iterable[Variant], reports: Sequence[Report]) -> list[FrontPoint]:
    """Plain with fewer steps, once for each number of steps: the first one measured, certificates before contests."""
    where = {id(variant): report for report in reports for variant in report.variants}
    found: dict[int, FrontPoint] = {}
    for variant in variants:
        steps = variant.num_inference_steps
        if steps not in found and variant.fidelity is not None and variant.speedup is not None:
            point = FrontPoint(
                key=f"fewer/{steps}", label=f"plain, {steps} steps", kind="fewer_steps", num_steps=steps
            )
            found[steps] = _with_numbers(point, variant, where[id(variant)])
    return [found[steps] for steps in sorted(found, reverse=True)]


def _is_ours(variant: Variant) -> bool:
    return variant.kind == "plan" or (variant.contender is not None and variant.contender.rival == OURS)


def _preset(variant: Variant) -> str:
    """Of ours; older reports call it so, newer ones a plan."""
    params = {} if variant.contender is None else variant.contender.params
    return str(params.get("plan") or params.get("preset") or "")


def _is_rival(variant: Variant, plans: Sequence[PlanFolder]) -> bool:
    """A technique of others; or a plan of ours that is not the one that ships today, which must not look like it."""
    if not _is_ours(variant):
        return variant.kind == "rival"
    return any(plan.name == _preset(variant) and not same_work(plan, variant) for plan in plans)


def _is_by_rule(variant: Variant, plans: Sequence[PlanFolder]) -> bool:
    """A plan that is not saved: a preset of ours without a plan for this model, such as ``lossless``."""
    return _is_ours(variant) and not any(plan.name == (_preset(variant) or variant.name) for plan in plans)


def _by_rule(variant: Variant, report: Report) -> FrontPoint:
    name = _preset(variant) or variant.name
    words = f"measured on {report.made}, not certified; the plan itself is not in the report"
    if _preset(variant):
        words = f"a preset by rule, not certified; measured among the rivals on {report.made}"
    point = FrontPoint(
        key=f"ours/{name}",
        label=name,
        kind="ours",
        num_steps=variant.num_inference_steps,
        preset=name if name in PRESET_ORDER and _means_today(name, variant, report.settings.model) else None,
        state=NOT_CERTIFIED,
        words=(words,),
    )
    return _with_numbers(point, variant, report)


def _means_today(name: str, variant: Variant, model: str) -> bool:
    """Whether a preset's name gives the plan that a report tells of: else its code would not reproduce the point."""
    path = shipped_folder() / model / name
    if variant.plan is None:
        return not path.is_dir()
    if path.is_dir():
        return bool(read_plan_file(path).passes == variant.plan.get("passes"))
    return not variant.plan.get("tensors")


def _rival(variant: Variant, contest: Report) -> FrontPoint:
    contender = variant.contender
    words = [] if contender is None else [f"{contender.method}; code: {contender.made_by}"]
    words += [contender.note] if contender is not None and contender.note else []
    if _is_ours(variant):
        words = ["a preset of ours by rule, or of an earlier day: not what this name gives today"]
    label = f"{variant.name} (earlier)" if _is_ours(variant) else variant.name
    point = FrontPoint(
        key=f"rival/{variant.name}",
        label=label,
        kind="rival",
        num_steps=variant.num_inference_steps,
        words=tuple(words),
        advised=contender is not None and contender.advised and not _is_ours(variant),
    )
    return _with_numbers(point, variant, contest)


def _unique(points: Iterable[FrontPoint]) -> tuple[FrontPoint, ...]:
    return tuple({point.key: point for point in reversed(list(points))}.values())[::-1]
