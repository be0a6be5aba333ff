"""Fill the results block of the README from a report: the README states no number that is not in one.

python benchmarks/readme_table.py outputs/demo/report.json
"""

import sys
from pathlib import Path

from dit_accel.errors import ConfigError
from dit_accel.evaluation.report import Report, Variant

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
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
        f"`{settings.model}`, {settings.width} x {settings.height}, {report.num_images} images in batches of "
        f"{settings.batch_size}, {settings.scheduler}, {settings.dtype}, {where}, {environment.torch_threads} torch "
        f"thread(s); {settings.repeats} interleaved runs of the whole pipeline after {settings.warmup} for warm-up. "
        f"torch {environment.packages.get('torch', '?')}, diffusers {environment.packages.get('diffusers', '?')}, "
        f"{report.created_utc[:10]}."
    )
    notes = [f"- {note}" for note in report.notes]
    return "\n".join([how, "", *HEADER, *(_row(variant) for variant in report.variants), "", *notes]).rstrip()


def fill(readme: str, block: str) -> str:
    """Put the block between the markers of a README's text.

    Raises:
        ConfigError: The markers are not there exactly once, in order.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise ConfigError(f"the README must have '{BEGIN}' and '{END}' once each, in that order")
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{block}\n{END}{rest.split(END)[1]}"


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
    """Read the report named on the command line and rewrite the README."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    try:
        block = results_block(Report.load(sys.argv[1]))
        README.write_text(fill(README.read_text(encoding="utf-8"), block), encoding="utf-8")
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
