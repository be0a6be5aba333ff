"""``docs/rivals.md``, written from reports: who is best where, also when it is not us. No number is computed here."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from dit_accel.evaluation.reports.contest import Contender
from dit_accel.evaluation.reports.report import Report
from rivals.front import acted, contenders, metric_names
from rivals.glance import glance
from rivals.plot import draw
from rivals.settings_csv import settings_csv
from rivals.verdicts import verdicts
from rivals.volume import METHOD as VOLUME
from rivals.volume import volume_lines, volume_table
from rivals.wording import NAMES, cell, title

HEADER = """# The rivals

Every published training-free technique that we could run, on the same pipelines, prompts, seeds, sampler and clock, in
one process. The credit for each [belongs to its authors](#whose-work-this-is); where the code is ours, a weakness may
be ours too: please tell us. This page is written by `make docs` from the reports in `benchmarks/results/`; nobody
edits it.
"""
LEGEND = """\
Up and right is better. The black stairs are the plain pipeline with fewer steps, the rival that costs nobody anything:
what lies in their shade is no better. Each technique is shown by its best settings; dotted lines only guide the eye;
bars are 95 % intervals of the mean. Grey: every other setting. What lies beyond the axis stands at its edge."""
GLANCE = """\
The best setting of about that speed-up or more: PSNR to the full run, [95 % interval], setting, its speed-up.
Two are *told apart* where their intervals do not overlap; bold is what nobody in its column is closer than and told
apart from. Above our row stand the techniques of others that are the closest of them at one of these speeds, at least
three."""
METHOD = """\
- **Speed-up** is wall-clock of the whole call, text encoder and decoder included, against the plain pipeline in the
  same round; the median of the rounds.
- **About 2x** counts from 1.9x on: on these cores the clock tells no less than 5 % apart.
- **Closeness** is to the plain run at its full number of steps, for the same prompt and seed. It says nothing about
  how good a picture is. The prompts are those kept for certificates; calibration used others.
- **Saved** is the share of the denoiser's multiply-accumulates that did not take place, counted where weights meet
  inputs, whatever the technique says of itself. One that saved nothing *did nothing*, and is said to.
- **The best setting** is chosen by the same samples that its value is read from, for every technique alike: one with
  more settings has more luck.
- Techniques that decide by a threshold decide for a whole batch at once, as their authors' code does."""


def write_page(reports: Sequence[Path], page: Path) -> Path:
    """Write the page, and beside it its plots and a CSV file of all settings.

    Raises:
        ConfigError: A file is no report.
    """
    loaded = [Report.load(path) for path in reports]
    page.parent.mkdir(parents=True, exist_ok=True)
    for name in plotted(loaded):
        draw([report for report in loaded if name in metric_names(report)], name, plot_path(page, name))
    page.with_suffix(".csv").write_text(settings_csv(loaded), encoding="utf-8")
    page.write_text(page_text(loaded, page), encoding="utf-8")
    return page


def plotted(reports: Sequence[Report]) -> tuple[str, ...]:
    """Metrics that have a plot: PSNR first."""
    return tuple(sorted(dict.fromkeys(name for report in reports for name in metric_names(report)), key=_psnr_first))


def plot_path(page: Path, name: str) -> Path:
    """Where the plot of a metric lies."""
    return (
        page.with_suffix(".png") if name == "psnr_db" else page.with_name(f"{page.stem}-{name.replace('_', '-')}.png")
    )


def page_text(reports: Sequence[Report], page: Path) -> str:
    """The page as Markdown; ``page`` says where it and its plots lie."""
    shown = [report for report in reports if metric_names(report)]
    parts = [HEADER]
    if shown:
        parts += [_image(page, "psnr_db"), "", LEGEND, "", "## At a glance", "", GLANCE, ""]
        for report in shown:
            parts += [
                f"### {title(report)}, n = {report.num_images}",
                "",
                *glance(report),
                "",
                *volume_lines(report),
                "",
            ]
    else:
        parts += ["No report with pictures yet: only times on random weights.", ""]
    parts += [f"All settings with all their numbers: [{page.stem}.csv]({page.stem}.csv).", "", "## Details", ""]
    parts += _folded("How it was measured", [METHOD, "", *(line for report in reports for line in _made(report))])
    for name in plotted(reports):
        if name != "psnr_db":
            parts += _folded(f"The same by {NAMES[name]}", [_image(page, name)])
    for report in shown:
        parts += _folded(f"Who is best where: {title(report)}", verdicts(report))
    areas = [line for report in shown for line in (f"**{title(report)}**", "", *volume_table(report), "")]
    parts += _folded("How much of speed and closeness each technique covers", [VOLUME, "", *areas]) if shown else []
    parts += _folded(
        "What did nothing, and what was not measured", [line for each in reports for line in _missing(each)]
    )
    return "\n".join([*parts, *_credits(reports)]).rstrip() + "\n"


def _image(page: Path, name: str) -> str:
    return f"![Speed-up against {NAMES[name]} to the plain run, a panel a model]({plot_path(page, name).name})"


def _folded(summary: str, lines: Iterable[str]) -> list[str]:
    return ["<details>", f"<summary>{summary}</summary>", "", *lines, "", "</details>", ""]


def _made(report: Report) -> list[str]:
    settings, environment = report.settings, report.environment
    where = environment.gpu if settings.device.startswith("cuda") else f"{environment.cpu}, CPU"
    packages = environment.packages
    versions = ", ".join(
        f"{name} {packages[name]}" for name in ("torch", "diffusers", "cache-dit") if packages.get(name)
    )
    return [
        f"- **{title(report)}**: `{settings.denoiser_class}`, {settings.width} x {settings.height}, {report.made}, "
        f"batch {settings.batch_size}, {settings.dtype}; {where}, {environment.torch_threads} torch thread(s); "
        f"{settings.repeats} shuffled rounds of {settings.num_timed or report.num_images} sample(s); {versions}; "
        f"{report.created_utc[:10]}.",
        *(f"  - {note}" for note in report.notes),
    ]


def _missing(report: Report) -> list[str]:
    idle = [variant.name for variant in contenders(report) if not acted(variant)]
    if not idle and not report.absent:
        return []
    lines = [f"**{title(report)}**", ""]
    if idle:
        lines += [f"Did nothing (nothing was saved at these settings): {'; '.join(idle)}.", ""]
    if report.absent:
        lines += ["| not measured | why | |", "|---|---|---|"]
        lines += [f"| {each.name} | {each.status} | {cell(each.reason)} |" for each in report.absent]
    return [*lines, ""]


def _credits(reports: Sequence[Report]) -> list[str]:
    seen: dict[str, Contender] = {}
    for report in reports:
        for variant in report.variants:
            if variant.contender is not None and variant.contender.advice:
                seen.setdefault(variant.contender.rival, variant.contender)
    lines = [
        "## Whose work this is",
        "",
        "| technique | published | whose code ran | advice we took |",
        "|---|---|---|---|",
    ]
    lines += [f"| {c.rival} | {c.method} | {c.made_by} | {cell(c.advice)} |" for c in seen.values()]
    notes: dict[str, str] = {}
    for report in reports:
        for variant in report.variants:
            if variant.contender is not None and variant.contender.note:
                notes.setdefault(variant.contender.note, f"{title(report)}, {variant.name}")
    if notes:
        lines += ["", *(f"- {example} and the like: {note}." for note, example in notes.items())]
    return lines


def _psnr_first(name: str) -> tuple[bool, str]:
    return name != "psnr_db", name
