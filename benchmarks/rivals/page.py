"""``docs/rivals.md``, written from reports: who is best where, also when it is not us. No number is computed here."""

from collections.abc import Sequence
from pathlib import Path

from dit_accel.evaluation.reports.report import Report, Variant
from rivals.front import (
    OURS,
    acted,
    closest,
    contenders,
    front,
    is_fast,
    metric,
    metric_names,
    overlap,
    rival_of,
    speed,
)
from rivals.measure import FEWER
from rivals.plot import draw

SPEEDS = (1.25, 1.5, 2.0, 3.0, 4.0)
HARD_SPEEDS = (1.5, 2.0, 3.0)
NAMES = {"lpips": "LPIPS", "st_lpips": "ST-LPIPS", "psnr_db": "PSNR"}
HEADER = """# The rivals

Every published training-free technique that we could run, on the same pipelines, prompts, seeds, sampler and clock,
in one process. The credit for each belongs to its authors; where the code is ours, a weakness may be ours too: please
tell us. This page is written by `python benchmarks/rivals page` from the reports in `benchmarks/results/`; nobody
edits it.

- **Speed-up** is wall-clock of the whole call, text encoder and decoder included, against the plain pipeline in the
  same round; the median of the rounds.
- **About 2x** counts from 1.9x on: on these cores the clock tells no less than 5 % apart.
- **Closeness** is to the plain run at its full number of steps, for the same prompt and seed. It says nothing about
  how good a picture is. The prompts are those kept for certificates; calibration used others.
- **Saved** is the share of the denoiser's multiply-accumulates that did not take place, counted where weights meet
  inputs, whatever the technique says of itself. One that saved nothing *did nothing*, and is said to.
- Techniques that decide by a threshold decide for a whole batch at once, as their authors' code does.
- **Fewer steps** is the plain pipeline with fewer steps: the rival that costs nobody anything.
"""


def write_page(reports: Sequence[Path], page: Path) -> Path:
    """Write the page, and beside it one plot for each report that has pictures.

    Raises:
        ConfigError: A file is no report.
    """
    loaded = [(path.stem, Report.load(path)) for path in reports]
    page.parent.mkdir(parents=True, exist_ok=True)
    plots = {stem: draw(report, page.parent / f"{stem}.png") for stem, report in loaded if metric_names(report)}
    reports_only = [report for _, report in loaded]
    parts = [HEADER, *_hard_rival(reports_only), *_verdicts(reports_only)]
    for stem, report in loaded:
        parts += ["", *_arena(report, plots.get(stem))]
    parts += ["", *_credits([report for _, report in loaded])]
    page.write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")
    return page


def _hard_rival(reports: Sequence[Report]) -> list[str]:
    """Where plain fewer steps hold: their PSNR beside the best of some techniques at the same speed or above."""
    shown = [report for report in reports if metric_names(report)]
    if not shown:
        return []
    lines = [
        "## Do caches beat fewer steps?",
        "",
        "PSNR to the full run, the best setting of about that speed-up or more:",
        "",
    ]
    lines += ["| | at least | fewer steps | FORA | TeaCache | cache-dit | dit-accel | best of all |"]
    lines += ["|---|---:|---:|---:|---:|---:|---:|---|"]
    for report in shown:
        for least in HARD_SPEEDS:
            cells = []
            for rival in (FEWER, "FORA", "TeaCache", "cache-dit", OURS):
                own = [variant for variant in contenders(report) if rival_of(variant) == rival]
                best = closest(own, least, "psnr_db")
                cells.append("" if best is None else _value(best, "psnr_db"))
            winner = closest(contenders(report), least, "psnr_db")
            cells.append("nobody" if winner is None else f"{winner.name}, {_value(winner, 'psnr_db')}")
            lines.append(f"| {_title(report)} | {least:g}x | {' | '.join(cells)} |")
    return [*lines, ""]


def _verdicts(reports: Sequence[Report]) -> list[str]:
    lines = ["## Who is best where", ""]
    for report in reports:
        names = metric_names(report)
        if not names:
            continue
        lines += [f"**{_title(report)}**, n = {report.num_images}:", ""]
        for least in SPEEDS:
            lines += [f"- {_verdict(report, least, name)}" for name in names]
        lines.append("")
    return lines if len(lines) > 2 else [*lines, "No report with pictures yet: only times on random weights.", ""]


def _verdict(report: Report, least: float, name: str) -> str:
    """One sentence on who is closest at this speed or above, and where we and fewer steps stand."""
    variants = contenders(report)
    best = closest(variants, least, name)
    if best is None:
        return f"At about {least:g}x or more: nobody."
    others = [variant for variant in variants if rival_of(variant) != rival_of(best)]
    tied = [
        variant for variant in others if is_fast(variant, least) and acted(variant) and overlap(variant, best, name)
    ]
    words = [
        f"At about {least:g}x or more, by {NAMES[name]}: **{best.name}** ({_value(best, name)}, {speed(best):.2f}x)."
    ]
    if tied:
        next_best = closest(tied, least, name)
        assert next_best is not None
        words.append(f"Not told apart from {next_best.name} ({_value(next_best, name)}).")
    for rival, word in ((OURS, "dit-accel"), (FEWER, "Fewer steps")):
        own = closest([v for v in variants if rival_of(v) == rival], least, name)
        if rival == rival_of(best):
            words.append("That is us." if rival == OURS else "No technique beats plain fewer steps here.")
        elif own is not None:
            words.append(f"{word} at its best: {own.name} ({_value(own, name)}).")
        else:
            words.append(f"{word}: nothing so fast.")
    return " ".join(words)


def _arena(report: Report, plot: Path | None) -> list[str]:
    settings, environment = report.settings, report.environment
    where = environment.gpu if settings.device.startswith("cuda") else f"{environment.cpu}, CPU"
    packages = environment.packages
    versions = ", ".join(
        f"{name} {packages[name]}" for name in ("torch", "diffusers", "cache-dit") if packages.get(name)
    )
    lines = [
        f"## {_title(report)}",
        "",
        f"`{settings.denoiser_class}`, {settings.width} x {settings.height}, {report.made}, batch "
        f"{settings.batch_size}, {settings.dtype}; {where}, {environment.torch_threads} torch thread(s); "
        f"{settings.repeats} shuffled rounds of {settings.num_timed or report.num_images} sample(s); {versions}; "
        f"{report.created_utc[:10]}.",
        *(f"- {note}" for note in report.notes),
        "",
    ]
    if plot is not None:
        lines += [f"![Speed-up against closeness, {_title(report)}]({plot.name})", ""]
    lines += _table(report)
    idle = [variant.name for variant in contenders(report) if not acted(variant)]
    if idle:
        lines += ["", f"**Did nothing** (nothing was saved at these settings): {'; '.join(idle)}."]
    if report.absent:
        lines += ["", "| not measured | why | |", "|---|---|---|"]
        lines += [f"| {each.name} | {each.status} | {_cell(each.reason)} |" for each in report.absent]
    return lines


def _table(report: Report) -> list[str]:
    names = metric_names(report)
    best = {variant.name for name in names for variant in front(report, name)}
    titles = ["", "speed-up", "denoiser", "saved", *(f"{NAMES[name]} [95 %]" for name in names)]
    titles += [f"{NAMES[name]}, worst 5 %" for name in names]
    lines = [f"| {' | '.join(titles)} |", f"|---|{'---:|' * (len(titles) - 1)}"]
    for variant in contenders(report):
        lines.append(f"| {' | '.join(_row(variant, names, variant.name in best))} |")
    if names:
        lines += ["", "Bold: on the front of at least one metric. \\*: the authors' advice."]
    return lines


def _row(variant: Variant, names: Sequence[str], on_front: bool) -> list[str]:
    contender, denoiser = variant.contender, variant.denoiser
    label = variant.name + (" \\*" if contender is not None and contender.advised else "")
    cells = [f"**{label}**" if on_front else label, f"{speed(variant):.2f}x"]
    cells.append(f"{denoiser.speedup.ratio:.2f}x" if denoiser is not None and denoiser.speedup is not None else "")
    done = None if contender is None else contender.action
    cells.append("" if done is None else f"{done.saved_frac:.0%}" if done.acted else "did nothing")
    cells += [_value(variant, name, interval=True) for name in names]
    return cells + [_number(metric(variant, name).worst5, name) for name in names]


def _credits(reports: Sequence[Report]) -> list[str]:
    seen = {}
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
    lines += [f"| {c.rival} | {c.method} | {c.made_by} | {_cell(c.advice)} |" for c in seen.values()]
    notes = {}
    for report in reports:
        for variant in report.variants:
            if variant.contender is not None and variant.contender.note:
                notes.setdefault(variant.contender.note, f"{_title(report)}, {variant.name}")
    if notes:
        lines += ["", *(f"- {example} and the like: {note}." for note, example in notes.items())]
    return lines


def _title(report: Report) -> str:
    return f"{report.settings.model}, {report.settings.scheduler}, {report.settings.num_inference_steps} steps"


def _value(variant: Variant, name: str, *, interval: bool = False) -> str:
    found = metric(variant, name)
    text = _number(found.mean, name)
    ends = ", ".join(_number(end, name).removesuffix(" dB") for end in found.ci95)
    return f"{text} [{ends}]" if interval else text


def _number(value: float, name: str) -> str:
    return f"{value:.1f} dB" if name == "psnr_db" else f"{value:.4f}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
