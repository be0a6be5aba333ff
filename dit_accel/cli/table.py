"""A report as a table for a terminal."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from dit_accel.evaluation.reports.report import Report, Variant

COLUMNS = ("variant", "steps", "time", "speed-up", "PSNR", "SSIM", "saved\nplanned", "saved\nactual")


def report_table(report: Report) -> Table:
    """One row for each variant."""
    title = f"{report.settings.model}: {report.made}"
    if report.settings.repeats:
        timed = report.settings.num_timed
        title += f", median of {report.settings.repeats} interleaved runs"
        title += "" if timed in (None, report.num_images) else f" of {timed}"
    table = Table(
        title=title, box=SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0), show_edge=False, pad_edge=False
    )
    rows = [_cells(variant) for variant in report.variants]
    filled = [place for place in range(len(COLUMNS)) if any(row[place] for row in rows)]
    for column in (COLUMNS[place] for place in filled):
        table.add_column(column, justify="left" if column == "variant" else "right", vertical="bottom", no_wrap=True)
    for row in rows:
        table.add_row(*(row[place] for place in filled))
    return table


def settings_words(report: Report) -> tuple[str, ...]:
    """How the report was made, in words, a line each."""
    settings, machine = report.settings, report.environment
    guidance = settings.guidance_scale
    if guidance is None and settings.conditions is not None:
        guidance = settings.conditions.guidance_scale
    run = [settings.model]
    if settings.pipeline_class:
        run += [settings.pipeline_class, settings.scheduler, f"{settings.num_inference_steps} steps"]
        run += ["the pipeline's guidance" if guidance is None else f"guidance {guidance:g}"]
        run += [settings.dtype, f"batch of {settings.batch_size}"]
    run += [f"{settings.width}x{settings.height}"]
    seeds = [sample.seed for sample in report.samples]
    prompts = f"the {settings.prompt_list} list" if settings.prompt_list else "no shipped list"
    made = f"{report.made}, prompts of {prompts}" + (f", seeds {min(seeds)} to {max(seeds)}" if seeds else "")
    processor = f"{machine.cpu}, {machine.torch_threads} torch threads of {machine.cpu_cores} cores"
    device = (settings.device.startswith("cuda") and machine.gpu) or processor
    software = [f"dit-accel {machine.dit_accel}" + (f" at {machine.git_revision}" if machine.git_revision else "")]
    software += [f"{name} {machine.packages[name]}" for name in ("torch", "diffusers") if name in machine.packages]
    return (
        ", ".join(run),
        made,
        f"on {settings.device or 'cpu'}: {device}; {', '.join(software)}; {report.created_utc[:10]}",
        f"command: {' '.join(report.command)}",
    )


def _cells(variant: Variant) -> list[str]:
    name = f"rival of {variant.rival_of}" if variant.kind == "fewer_steps" else variant.name
    time = "" if variant.times is None else f"{variant.times.median_s:.2f} s"
    cells = [name, str(variant.num_inference_steps or ""), time]
    cells.append(f"{variant.speedup.ratio:.2f}x" if variant.speedup else "")
    if variant.fidelity:
        cells += [f"{variant.fidelity.psnr_db.mean:.1f} dB", f"{variant.fidelity.ssim.mean:.3f}"]
    else:
        cells += ["", ""]
    effect = variant.effects and variant.effects.main
    if effect:
        actual = effect.actual_frac
        cells += [f"{effect.planned_frac:.0%}", "not counted" if actual is None else f"{actual:.0%}"]
    else:
        cells += ["", ""]
    return cells
