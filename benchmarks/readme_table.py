"""Fill the tables of the README from reports: the README's tables state no number that is not in one.

python benchmarks/readme_table.py outputs/demo/report.json benchmarks/results/speed-emoji-pixart-x4-cpu.json

A report that counts multiply-accumulates (benchmarks/speed.py) fills the speed block, any other the results block.
"""

import sys
from pathlib import Path

from dit_accel.errors import ConfigError
from dit_accel.evaluation.report import Report, Variant

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
SPEED = ("<!-- speed:begin -->", "<!-- speed:end -->")
README = Path(__file__).resolve().parent.parent / "README.md"
HEADER = (
    "| | steps | time, median [IQR] | speed-up | PSNR [95 %] | worst 5 % | SSIM | reuse planned / actual |",
    "|---|---:|---:|---:|---:|---:|---:|---:|",
)


def results_block(report: Report) -> str:
    """The report as Markdown: a sentence on how it was measured, a table, and the report's own notes."""
    settings, environment = report.settings, report.environment
    where = environment.gpu if settings.device.startswith("cuda") else f"{environment.cpu}, CPU"
    how = (
        f"`{settings.model}`, {settings.width} x {settings.height}, {report.made} in batches of "
        f"{settings.batch_size}, {settings.scheduler}, {settings.dtype}, {where}, {environment.torch_threads} torch "
        f"thread(s); {settings.repeats} interleaved runs of the whole pipeline after {settings.warmup} for warm-up. "
        f"torch {environment.packages.get('torch', '?')}, diffusers {environment.packages.get('diffusers', '?')}, "
        f"{report.created_utc[:10]}."
    )
    notes = [f"- {note}" for note in report.notes]
    return "\n".join([how, "", *HEADER, *(_row(variant) for variant in report.variants), "", *notes]).rstrip()


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
    name = {"plain": "plain", "plan": f'`"{variant.name}"`'}.get(
        variant.kind, f'plain, fewer steps, in the time of `"{variant.rival_of}"`'
    )
    low, high = variant.times.iqr_s
    cells = [name, str(variant.num_inference_steps), f"{variant.times.median_s:.2f} s [{low:.2f}, {high:.2f}]"]
    cells.append("" if variant.speedup is None else f"{variant.speedup.ratio:.2f}x")
    if variant.fidelity is None:
        cells += ["", "", ""]
    else:
        psnr = variant.fidelity.psnr_db
        cells.append(f"{psnr.mean:.1f} dB [{psnr.ci95[0]:.1f}, {psnr.ci95[1]:.1f}]")
        cells += [f"{psnr.worst5:.1f} dB", f"{variant.fidelity.ssim.mean:.3f}"]
    if variant.reuse is None:
        cells.append("")
    else:
        actual = variant.reuse.actual_frac
        cells.append(f"{variant.reuse.planned_frac:.0%} / {'not counted' if actual is None else f'{actual:.0%}'}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Read the reports named on the command line and rewrite the README."""
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    try:
        text = README.read_text(encoding="utf-8")
        for path in sys.argv[1:]:
            report = Report.load(path)
            if report.variants[0].denoiser is None:
                text = fill(text, results_block(report))
            else:
                text = fill(text, speed_block(report), SPEED)
        README.write_text(text, encoding="utf-8")
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
