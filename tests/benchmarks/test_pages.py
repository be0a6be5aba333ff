"""The pages say what the reports and the code say, and state no measured quantity by hand."""

import re
import shlex
from pathlib import Path

import pytest
from pages.documents import DOCUMENTS, ROOT
from pages.loose import loose_quantities
from pages.markers import fill
from pages.tables import TABLES

LINK = re.compile(r"\]\(([^)#\s]+)(?:#([^)\s]+))?\)")
COMMAND = re.compile(r"(?:^|`)(dit-accel|make|python) ((?:\\\n|[^`#\n])*)", re.MULTILINE)


@pytest.mark.parametrize("page", DOCUMENTS)
def test_page_is_what_the_reports_and_the_code_say(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    filled = fill(text, ROOT, TABLES)
    assert text == filled, "the page is out of date: `make docs`, or `python benchmarks/pages`"


@pytest.mark.parametrize(("page", "exceptions"), [each for each in DOCUMENTS.items() if each[1] is not None])
def test_no_quantity_is_stated_by_hand(page: str, exceptions: tuple[str, ...]) -> None:
    loose = loose_quantities((ROOT / page).read_text(encoding="utf-8"), exceptions)
    assert loose == [], "put each between figure comments (benchmarks/pages), or name it in pages/documents.py"


@pytest.mark.parametrize("page", [*DOCUMENTS, "docs/rivals.md"])
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target, anchor in LINK.findall(path.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        there = (path.parent / target).resolve()
        assert there.exists(), target
        assert not anchor or anchor in _anchors(there), f"{target}#{anchor}"


@pytest.mark.parametrize("page", DOCUMENTS)
def test_commands_exist(page: str) -> None:
    """Sub-commands and options that a page names are known, and so are make's targets and the scripts."""
    from typer.main import get_command

    from dit_accel.cli.app import app

    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for program, rest in COMMAND.findall((ROOT / page).read_text(encoding="utf-8")):
        words = shlex.split(rest.replace("\\\n", " "))
        if program == "make":
            assert words[0] in targets, rest
        elif program == "python":
            assert (ROOT / words[0]).exists(), rest
        else:
            command = get_command(app)
            while words and words[0] in getattr(command, "commands", {}):
                command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
            assert not words or not getattr(command, "commands", {}), f"no such command: {rest}"
            known = {option for parameter in command.params for option in parameter.opts}
            assert {word.split("=")[0] for word in words if word.startswith("-")} <= known, rest


def test_the_six_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "apple.png").stat().st_size > 0


def test_every_report_that_ships_is_read_somewhere() -> None:
    """A measurement that no page shows is either news for one or has to go."""
    texts = [(ROOT / page).read_text(encoding="utf-8") for page in [*DOCUMENTS, "docs/pipelines.md"]]
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        if not path.name.startswith("rivals-"):  # all of those are in docs/rivals.md
            assert any(path.name in text for text in texts), path.name


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
