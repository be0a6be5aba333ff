"""A report as a table for a terminal."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from dit_accel.evaluation.report import Report, Variant


def report_table(report: Report) -> Table:
    """One row for each variant."""
    title = f"{report.settings.model}: {report.made}, median of {report.settings.repeats} interleaved runs"
    table = Table(
        title=title, box=SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0), show_edge=False, pad_edge=False
    )
    for column in ("variant", "steps", "time", "speed-up", "PSNR", "SSIM", "reuse\nplanned", "reuse\nactual"):
        table.add_column(column, justify="left" if column == "variant" else "right", vertical="bottom", no_wrap=True)
    for variant in report.variants:
        table.add_row(*_cells(variant))
    return table


def _cells(variant: Variant) -> list[str]:
    name = {"plain": "plain", "plan": variant.name}.get(variant.kind, f"rival of {variant.rival_of}")
    cells = [name, str(variant.num_inference_steps), f"{variant.times.median_s:.2f} s"]
    cells.append(f"{variant.speedup.ratio:.2f}x" if variant.speedup else "")
    if variant.fidelity:
        cells += [f"{variant.fidelity.psnr_db.mean:.1f} dB", f"{variant.fidelity.ssim.mean:.3f}"]
    else:
        cells += ["", ""]
    if variant.reuse:
        actual = variant.reuse.actual_frac
        cells += [f"{variant.reuse.planned_frac:.0%}", "not counted" if actual is None else f"{actual:.0%}"]
    else:
        cells += ["", ""]
    return cells
