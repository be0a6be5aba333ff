"""All certificates in one table: what a preset keeps, and beside it what plain sampling keeps in the same time."""

from collections.abc import Sequence

from dit_accel.errors import ConfigError
from dit_accel.evaluation.metrics.fidelity import PSNR_CAP_DB
from dit_accel.evaluation.reports.report import Report, Variant
from pages.reports import by_preset, promise, saves_memory_alone, where_words

HEADER = (
    "| | preset | speed-up | PSNR | worst 5 % | 9 of 10 new prompts | ST-LPIPS |",
    "|---|---|---:|---:|---:|---:|---:|",
)


def glance_block(reports: Sequence[Report]) -> str:
    """Certificates of several models as Markdown, the plain run with fewer steps after each number in brackets.

    Plans that save memory alone are left out, and a sentence says where they are.

    Raises:
        ConfigError: A report is no certificate with such a rival.
    """
    lines, methods = [*HEADER], []
    given = len(reports)
    reports = [report for report in reports if not saves_memory_alone(report)]
    models = dict.fromkeys(report.settings.model for report in reports)
    for model in models:
        own = by_preset([report for report in reports if report.settings.model == model])
        for place, report in enumerate(own):
            lines.append(_row("" if place else f"`{model}`", report))
        settings = own[0].settings
        steps = f"{settings.num_inference_steps} steps of {settings.scheduler}"
        methods.append(f"`{model}`: {steps}, n = {_counts(own)}")
    left_out = " Quantised plans that save memory and no time: [quantisation](docs/quantization.md)."
    more = left_out if len(reports) < given else ""
    return "\n".join([*lines, "", f"{'; '.join(methods)}. {_where(reports)}{more}"])


def _counts(reports: Sequence[Report]) -> str:
    """How many pictures the certificates of one model are of: most of them, then those that are of another number."""
    most = max(report.num_images for report in reports)
    others = [
        f"{report.num_images} of `{_of_kind(report, 'plan').name}`" for report in reports if report.num_images != most
    ]
    return f"{most} ({', '.join(others)})" if others else str(most)


def _where(reports: Sequence[Report]) -> str:
    """Machine and software of most, and which plans were measured elsewhere; each ratio is of one machine."""
    places: dict[str, list[str]] = {}
    for report in reports:
        named = f"`{report.settings.model}` `{_of_kind(report, 'plan').name}`"
        places.setdefault(where_words(report), []).append(named)
    most, *others = sorted(places, key=lambda where: -len(places[where]))
    return " ".join([f"{most}.", *(f"On {where}: {', '.join(places[where])}." for where in others)])


def _of_kind(report: Report, kind: str) -> Variant:
    for variant in report.variants:
        if variant.kind == kind:
            return variant
    raise ConfigError(f"the report of '{report.settings.model}' has no variant of kind '{kind}'")


def _row(model: str, report: Report) -> str:
    plan = _of_kind(report, "plan")
    if plan.speedup is None or plan.fidelity is None:
        raise ConfigError(f"the report has no speed-up or no fidelity of '{plan.name}'")
    ours = plan.fidelity
    cells = [model, f'`"{plan.name}"`']
    is_equal = ours.psnr_db.worst5 >= PSNR_CAP_DB
    if is_equal and not any(variant.kind == "fewer_steps" for variant in report.variants):
        # As slow as the plain run: no smaller number of steps takes its time.
        return f"| {' | '.join(cells)} | {plan.speedup.ratio:.2f}x | equal | equal | equal | 0 |"
    fewer = _of_kind(report, "fewer_steps")
    if fewer.speedup is None or fewer.fidelity is None:
        raise ConfigError(f"the report has no speed-up or no fidelity of the rival of '{plan.name}'")
    theirs = fewer.fidelity
    cells.append(f"{plan.speedup.ratio:.2f}x ({fewer.speedup.ratio:.2f}x)")
    if is_equal:
        return f"| {' | '.join(cells)} | equal | equal | equal | 0 |"
    cells.append(f"{ours.psnr_db.mean:.1f} dB ({theirs.psnr_db.mean:.1f})")
    cells.append(f"{ours.psnr_db.worst5:.1f} dB ({theirs.psnr_db.worst5:.1f})")
    cells.append(f"{promise('psnr_db', ours.psnr_db)} ({promise('psnr_db', theirs.psnr_db)})".replace(" dB)", ")"))
    far, further = ours.st_lpips, theirs.st_lpips
    cells.append("" if far is None or further is None else f"{far.mean:.4f} ({further.mean:.4f})")
    return f"| {' | '.join(cells)} |"
