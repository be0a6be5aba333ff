"""Try pipelines, or turn the report into a page. See the package's docstring."""

import json
import re
import sys
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Annotated

HERE = Path(__file__).resolve()
sys.path[0] = str(HERE.parents[1])  # instead of this folder, whose files are no modules of their own

import torch  # noqa: E402
import typer  # noqa: E402
from diffusers.utils import logging as diffusers_logging  # noqa: E402

from breadth.checkout import STEPS, find_subjects, open_checkout  # noqa: E402
from breadth.page import page_text  # noqa: E402
from breadth.pool import read, try_all  # noqa: E402
from dit_accel.errors import DitAccelError  # noqa: E402
from dit_accel.evaluation.reports.environment import collect_environment  # noqa: E402

REPORT = HERE.parents[1] / "results" / "breadth.json"
PAGE = HERE.parents[2] / "docs" / "pipelines.md"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Try every pipeline of diffusers."""


@app.command()
def run(
    diffusers: Annotated[Path, typer.Argument(help="A checkout of diffusers: its tests make the tiny pipelines.")],
    pattern: Annotated[str, typer.Option(help="A regular expression: only pipeline classes that it finds.")] = "",
    output: Annotated[Path, typer.Option(help="The report.")] = REPORT,
    work: Annotated[Path, typer.Option(help="Where results are kept until the report.")] = Path("outputs/breadth"),
    fresh: Annotated[bool, typer.Option(help="Try again what has a result.")] = False,
    again: Annotated[bool, typer.Option(help="Try again what does not work.")] = False,
    workers: Annotated[int, typer.Option(help="Processes at a time.", min=1)] = 2,
    timeout_s: Annotated[float, typer.Option(help="Longest time for one pipeline.", min=1)] = 300.0,
) -> None:
    """Try the pipelines; stop and start it as you like."""
    torch.set_num_threads(1)
    diffusers_logging.set_verbosity_error()
    work.mkdir(parents=True, exist_ok=True)
    try:
        open_checkout(diffusers.resolve())
        subjects, broken = find_subjects(diffusers.resolve())
    except DitAccelError as error:
        raise SystemExit(f"error: {error}") from error
    for name, reason in broken.items():
        _say(f"{name} cannot be imported: {reason}")
    chosen = [subject for subject in subjects if re.search(pattern, subject.name)]
    if not chosen:
        raise SystemExit(f"error: no pipeline class matches '{pattern}'")
    known = {subject.name: read(work, subject.name) for subject in chosen}
    for subject in chosen:
        result = known[subject.name]
        if fresh or (again and result is not None and result["status"] != "works"):
            (work / f"{subject.name}.json").unlink(missing_ok=True)
            known[subject.name] = None
    waiting = [subject for subject in chosen if known[subject.name] is None]
    try_all(waiting, work, workers=workers, timeout_s=timeout_s, say=_say)
    results = [read(work, subject.name) for subject in chosen]
    counts = Counter(result["status"] for result in results if result is not None)
    report = {
        "format": "dit-accel/breadth",
        "environment": collect_environment().model_dump(),
        "steps": STEPS,
        "counts": dict(sorted(counts.items())),
        "pipelines": results,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    _say(f"{len(chosen)} pipeline classes: {', '.join(f'{n} {status}' for status, n in counts.most_common())}")


@app.command()
def page(
    report: Annotated[Path, typer.Argument(help="The report.")] = REPORT,
    output: Annotated[Path, typer.Option(help="Markdown file.")] = PAGE,
) -> None:
    """Write the page from the report."""
    if not report.is_file():
        raise SystemExit("error: there is no report yet; run first")
    output.write_text(page_text(json.loads(report.read_text(encoding="utf-8"))), encoding="utf-8")
    _say(f"page: {output.name}")


def _say(line: str) -> None:
    typer.echo(f"{datetime.now():%H:%M:%S} {line}")


if __name__ == "__main__":
    app()
