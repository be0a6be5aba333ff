"""Fill the tables of the README from reports: the README's tables state no number that is not in one.

python benchmarks/readme_table.py schedules/plans/emoji-pixart/*/report.json
python benchmarks/readme_table.py benchmarks/results/speed-emoji-pixart-x4-cpu.json

Reports of certificates, on a list of prompts, fill the results block together; one of `dit-accel evaluate` the quality
block, and one of benchmarks/speed.py the speed block.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from dit_accel.errors import ConfigError
from dit_accel.evaluation.reports.report import Report, Variant

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
QUALITY = ("<!-- quality:begin -->", "<!-- quality:end -->")
SPEED = ("<!-- speed:begin -->", "<!-- speed:end -->")
README = Path(__file__).resolve().parent.parent / "README.md"
HEADER = (
    "| | steps | speed-up [95 %] | PSNR [95 %] | worst 5 % | SSIM | ST-LPIPS | saved planned / actual |",
    "|---|---:|---:|---:|---:|---:|---:|---:|",
)


def results_block(reports: Sequence[Report]) -> str:
    """Reports of one model as Markdown: a sentence on how it was measured, a table, and the reports' own notes.

    Raises:
        ConfigError: They were not made alike.
    """
    first = reports[0]
    settings, environment = first.settings, first.environment
    for other in reports[1:]:
        if other.samples != first.samples or other.settings.model != settings.model:
            raise ConfigError("reports of other models, prompts or seeds do not fit into one table")
    where = environment.gpu if settings.device.startswith("cuda") else f"{environment.cpu}, CPU"
    prompts = f" of the held-out list `{settings.prompt_list}`" if settings.prompt_list else ""
    how = (
        f"`{settings.model}`, {settings.width} x {settings.height}, n = {first.num_images}{prompts} in batches of "
        f"{settings.batch_size}, {settings.scheduler}, {settings.num_inference_steps} steps, {settings.dtype}, "
        f"{where}, {environment.torch_threads} torch thread(s); {settings.repeats} interleaved runs of the whole "
        f"pipeline after {settings.warmup} for warm-up. torch {environment.packages.get('torch', '?')}, diffusers "
        f"{environment.packages.get('diffusers', '?')}, {first.created_utc[:10]}."
    )
    rows = [_row(variant) for report in reports for variant in report.variants if variant.kind != "plain"]
    notes = [f"- {note}" for note in dict.fromkeys(note for report in reports for note in report.notes)]
    return "\n".join([how, "", *HEADER, *rows, "", *notes]).rstrip()


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


def fill(readme: str, block: str, markers: tuple[str, str] = (BEGIN, END)) -> str:
    """Put the block between the markers of a README's text.

    Raises:
        ConfigError: The markers are not there exactly once, in order.
    """
    begin, end = markers
    if readme.count(begin) != 1 or readme.count(end) != 1 or readme.index(begin) > readme.index(end):
        raise ConfigError(f"the README must have '{begin}' and '{end}' once each, in that order")
    before, rest = readme.split(begin)
    return f"{before}{begin}\n{block}\n{end}{rest.split(end)[1]}"


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
    cells.append(f"{fidelity.ssim.mean:.3f}")
    cells.append("" if fidelity.st_lpips is None else f"{fidelity.st_lpips.mean:.3f}")
    effect = variant.effects and variant.effects.main
    if not effect:
        cells.append("")
    else:
        actual = effect.actual_frac
        cells.append(f"{effect.planned_frac:.0%} / {'not counted' if actual is None else f'{actual:.0%}'}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Read the reports named on the command line and rewrite the README."""
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    try:
        text = README.read_text(encoding="utf-8")
        reports = [Report.load(path) for path in sys.argv[1:]]
        evaluated = [report for report in reports if report.evaluation is not None]
        speed = [report for report in reports if report.settings.prompt_list is None and report not in evaluated]
        certified = [report for report in reports if report not in speed and report not in evaluated]
        if certified:
            text = fill(text, results_block(certified))
        for report in evaluated:
            text = fill(text, quality_block(report), QUALITY)
        for report in speed:
            text = fill(text, speed_block(report), SPEED)
        README.write_text(text, encoding="utf-8")
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
