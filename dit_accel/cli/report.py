"""``dit-accel report``: print a report, or set several side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dit_accel.cli import options
from dit_accel.cli.console import out, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from dit_accel.evaluation.reports.differences import Cell, Differences
    from dit_accel.evaluation.reports.report import Report


def report_command(
    paths: Annotated[list[Path], typer.Argument(help="Report files, or folders with a report.json.")],
    as_json: options.Json = False,
) -> None:
    """Print a report; of several, first what differs in how they were made, then their numbers with a verdict each.

    A verdict is given only where numbers are comparable and their 95 % intervals do not overlap.

    Example: dit-accel report outputs/demo benchmarks/results/demo-emoji-pixart-cpu.json
    """
    from dit_accel.evaluation.reports.report import Report

    reports = [Report.load(path) for path in paths]
    if len(reports) == 1:
        if as_json:
            print_json(reports[0].model_dump_json(indent=1))
        else:
            print_report(reports[0], paths[0])
        return
    from dit_accel.evaluation.reports.differences import compare_reports

    found = compare_reports(reports, _names(len(paths)))
    if as_json:
        print_json(found.model_dump_json(indent=1))
        return
    console = out()
    for name, path, report in zip(found.names, paths, reports, strict=True):
        console.print(f"{name}: {path} ({report.created_utc[:10]})", markup=False)
    console.print()
    if not found.differences:
        console.print("made alike: same prompts, seeds, settings, machine and software")
    for difference in found.differences:
        values = "; ".join(
            f"{name}: {value}" for name, value in zip(found.names, difference.values, strict=True) if value
        )
        console.print(f"differs in {difference.what}: {values}", markup=False)
    console.print()
    console.print(_table(found))


def _names(count: int) -> list[str]:
    return [chr(ord("A") + number) if number < 26 else str(number + 1) for number in range(count)]


def print_report(report: "Report", path: Path) -> None:
    """Print one report; ``path`` is where it lies, perhaps beside a plan with its certificate."""
    from dit_accel.cli.quality import evaluation_words, method_words, quality_table
    from dit_accel.cli.table import report_table, settings_words
    from dit_accel.evaluation.reports.metrics import fidelity_metrics
    from dit_accel.plan.certificate import BOUNDED
    from dit_accel.plan.facts import DENOISER_SPEEDUP, SPEEDUP, bound_words, interval_words, metric_facts, spread_words

    held_out = report.settings.prompt_list == "certify"  # of prompts that something was tuned on nothing is promised
    console = out()
    for line in (*settings_words(report), *evaluation_words(report)):
        console.print(line, markup=False)
    for line in _certificate_words(path):
        console.print(line, markup=False)
    console.print()
    console.print(report_table(report))
    for variant in report.variants:
        parts = []
        cost = variant.denoiser
        for facts, speedup in ((SPEEDUP, variant.speedup), (DENOISER_SPEEDUP, None if cost is None else cost.speedup)):
            if speedup is not None:
                parts.append(f"{facts.label} {interval_words(facts, speedup.ratio, speedup.ci95)}")
        if variant.fidelity is not None:
            metrics = fidelity_metrics(variant.fidelity)
            for name, metric in metrics.items():
                words = spread_words(metric_facts(name), metric)
                promised = held_out and name in BOUNDED and metric.bound
                if promised:
                    words += f", {promised.share} new prompts {bound_words(metric_facts(name), promised)}"
                parts.append(words)
        if parts:
            console.print(f"{variant.name}: {'; '.join(parts)}", markup=False)
    table = quality_table(report)
    if table is not None:
        console.print(table)
    for line in method_words(report):
        console.print(line, markup=False)
    for note in report.notes:
        console.print(f"note: {note}", markup=False)


def _certificate_words(path: Path) -> list[str]:
    """Of the plan that lies beside a report in a certificate's folder."""
    from dit_accel.evaluation.reports.report import REPORT_FILE
    from dit_accel.plan.plan import PLAN_FILE, AccelerationPlan

    folder = path if path.is_dir() else path.parent
    if not (folder / PLAN_FILE).is_file() or (path.is_file() and path.name != REPORT_FILE):
        return []
    plan = AccelerationPlan.from_pretrained(folder)
    if plan.certificate is None:
        return []
    if plan.certificate_fault is not None:
        return [f"the plan beside it is not certified: {plan.certificate_fault}"]
    if not plan.certificate.is_of_report(folder / REPORT_FILE):
        return [f"the certificate of plan '{plan.name}' beside it was made from another report than this one"]
    return [
        f"certificate of plan '{plan.name}', made from this report:",
        *(f"  {s}" for s in plan.certificate.words()),
    ]


def _table(found: "Differences") -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from dit_accel.evaluation.reports.differences import facts_of

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("variant", "metric", *found.names, "verdict"):
        table.add_column(column, overflow="fold")
    before = ""
    for row in found.rows:
        cells = [_cell(row.metric, cell) for cell in row.cells]
        table.add_row(row.variant if row.variant != before else "", facts_of(row.metric).label, *cells, row.verdict)
        before = row.variant
    return table


def _cell(metric: str, cell: "Cell | None") -> str:
    from dit_accel.evaluation.reports.differences import facts_of
    from dit_accel.plan.facts import interval_words

    if cell is None:
        return "-"
    facts = facts_of(metric)
    worst = "" if cell.worst5 is None else f"\nworst 5 % {facts.number(cell.worst5)}"
    return interval_words(facts, cell.value, cell.interval) + worst
