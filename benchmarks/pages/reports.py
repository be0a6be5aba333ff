"""Tables of reports as Markdown: certificates, an evaluation, speed. No number is computed here."""

from collections.abc import Sequence

from dit_accel.errors import ConfigError
from dit_accel.evaluation.reports.records import Metric
from dit_accel.evaluation.reports.report import Report, Variant
from dit_accel.plan.facts import metric_facts
from dit_accel.plan.plan import NOT_CERTIFIED
from dit_accel.session.presets import PRESETS

HEADER = (
    "| | steps | speed-up [95 %] | PSNR [95 %] | worst 5 % | 9 of 10 new prompts | SSIM | ST-LPIPS "
    "| 9 of 10 new prompts | saved planned / actual |",
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
)


def results_block(reports: Sequence[Report]) -> str:
    """Reports of one model as Markdown: a table, a sentence on how it was measured, and the reports' own notes.

    Those of plans that save memory alone are left out.

    Raises:
        ConfigError: They were not made alike.
    """
    reports = [report for report in reports if not saves_memory_alone(report)]
    first = reports[0]
    settings = first.settings
    for other in reports[1:]:
        if other.samples != first.samples or other.settings.model != settings.model:
            raise ConfigError("reports of other models, prompts or seeds do not fit into one table")
    prompts = f" of the held-out list `{settings.prompt_list}`" if settings.prompt_list else ""
    how = (
        f"`{settings.model}`, {settings.width} x {settings.height}, n = {first.num_images}{prompts} in batches of "
        f"{settings.batch_size}, {settings.scheduler}, {settings.num_inference_steps} steps, {settings.dtype}, "
        f"{settings.repeats} interleaved runs of the whole pipeline after {settings.warmup} for warm-up; "
        f"{where_words(first)}, {first.created_utc[:10]}."
    )
    rows = [_row(variant) for report in by_preset(reports) for variant in report.variants if variant.kind != "plain"]
    noted = dict.fromkeys(note for report in reports for note in report.notes)
    notes = [f"- {note}" for note in noted if NOT_CERTIFIED not in note]  # it is what the report is for
    return "\n".join([*HEADER, *rows, "", how, *notes])


def saves_memory_alone(report: Report) -> bool:
    """Whether its plan gives weights few bits and no fewer plain steps take as long: it stands in another table."""
    if any(variant.kind == "fewer_steps" for variant in report.variants):
        return False
    effects = next(variant.effects for variant in report.variants if variant.kind == "plan")
    return effects is not None and effects.main is not None and effects.main.name == "quantize"


def where_words(report: Report) -> str:
    """Machine and software of a report, for people."""
    settings, environment = report.settings, report.environment
    packages = environment.packages
    where = environment.gpu if settings.device.startswith("cuda") else f"{environment.cpu}, CPU"
    threads = f"{environment.torch_threads} torch thread(s)"
    return f"{where}, {threads}, torch {packages.get('torch', '?')}, diffusers {packages.get('diffusers', '?')}"


def by_preset(reports: Sequence[Report]) -> list[Report]:
    """Mildest preset first; what is no preset comes last."""
    order = list(PRESETS)

    def place(report: Report) -> int:
        names = [variant.name for variant in report.variants if variant.kind == "plan"]
        return min((order.index(name) for name in names if name in order), default=len(order))

    return sorted(reports, key=place)


def speed_block(report: Report) -> str:
    """What saved arithmetic allows and what the clock shows, in the denoiser alone, as Markdown."""
    settings, environment = report.settings, report.environment
    lines = [
        f"`{settings.model}`, {settings.batch_size} image(s) a call, {settings.num_inference_steps} steps, "
        f"{settings.dtype}, {environment.gpu or environment.cpu}, {environment.torch_threads} torch threads, "
        f"{settings.repeats} interleaved rounds; the denoiser's time against the plain eager one's, round by round.",
        "",
        "| | multiply-accumulates saved allow | measured [IQR] | share attained | our own overhead |",
        "|---|---:|---:|---:|---:|",
    ]
    for variant in report.variants:
        cost = variant.denoiser
        if cost is None or cost.speedup is None or cost.allowed_speedup is None:
            continue
        low, high = cost.speedup.iqr
        overhead = "" if cost.overhead_frac is None else f"{cost.overhead_frac:.1%}"
        cells = [variant.name, f"{cost.allowed_speedup:.2f}x", f"{cost.speedup.ratio:.2f}x [{low:.2f}, {high:.2f}]"]
        lines.append(f"| {' | '.join([*cells, f'{cost.attained_frac:.0%}', overhead])} |")
    return "\n".join([*lines, "", *(f"- {note}" for note in report.notes)]).rstrip()


def quality_block(report: Report) -> str:
    """What an evaluation found of each variant's quality by itself, as Markdown."""
    qualities = [(variant.name, variant.quality) for variant in report.variants if variant.quality is not None]
    first, evaluation = qualities[0][1], report.evaluation
    assert evaluation is not None
    lines = [f"`{report.settings.model}`, n = {report.num_images}, {evaluation.num_reference} real images.", ""]
    titles = [each.name if each.spread is None else f"{each.name} x 1000 (spread)" for each in first.distances]
    titles += [f"{each.name}, {each.unit} [95 %]" for each in first.alignment]
    lines += [f"| | {' | '.join(titles)} |", f"|---|{'---:|' * len(titles)}"]
    for name, quality in qualities:
        cells = [
            f"{each.value:.1f}" if each.spread is None else f"{each.value * 1e3:.0f} ({each.spread * 1e3:.0f})"
            for each in quality.distances
        ]
        for each in quality.alignment:
            low, high = each.scores.ci95
            cells.append(f"{each.scores.mean:.3f} [{low:.3f}, {high:.3f}]")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"- {note}" for note in report.notes)])


def _row(variant: Variant) -> str:
    name = f'`"{variant.name}"`' if variant.kind == "plan" else "plain, fewer steps in its time"
    cells = [name, str(variant.num_inference_steps)]
    speedup, fidelity = variant.speedup, variant.fidelity
    if speedup is None or fidelity is None:
        raise ConfigError(f"the report has no speed-up or no fidelity of '{variant.name}'")
    low, high = speedup.ci95 or speedup.iqr
    cells.append(f"{speedup.ratio:.2f}x [{low:.2f}, {high:.2f}]")
    psnr = fidelity.psnr_db
    cells += [f"{psnr.mean:.1f} dB [{psnr.ci95[0]:.1f}, {psnr.ci95[1]:.1f}]", f"{psnr.worst5:.1f} dB"]
    cells += [promise("psnr_db", psnr), f"{fidelity.ssim.mean:.3f}"]
    distance = fidelity.st_lpips
    cells += ["", ""] if distance is None else [f"{distance.mean:.3f}", promise("st_lpips", distance)]
    effect = variant.effects and variant.effects.main
    if not effect:
        cells.append("")
    else:
        actual = effect.actual_frac
        cells.append(f"{effect.planned_frac:.0%} / {'not counted' if actual is None else f'{actual:.0%}'}")
    return f"| {' | '.join(cells)} |"


def promise(name: str, metric: Metric) -> str:
    """What nine of ten new prompts keep; empty where too few were measured."""
    facts, bound = metric_facts(name), metric.bound
    return "" if bound is None else f"{'≥' if facts.higher_is_better else '≤'} {facts.bound(bound.value)}"
