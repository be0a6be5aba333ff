"""The comments in a page that say where a figure or a table comes from, and what is written between them."""

import re
import shlex
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from dit_accel.errors import ConfigError, did_you_mean
from pages.values import find, load, written

# No comment stands inside, so that one which is not closed cannot swallow the text up to the next one's end.
_INSIDE = r"(?:(?!<!--).)*"
TABLE = re.compile(rf"(?P<begin><!-- table (?P<words>[^\n>]*?) -->\n){_INSIDE}(?P<end><!-- /table -->)", re.DOTALL)
FIGURE = re.compile(rf"(?P<begin><!-- figure (?P<words>[^\n>]*?) -->){_INSIDE}(?P<end><!-- /figure -->)", re.DOTALL)
SOURCE = re.compile(r"<!-- source (\S+) (\S+) -->")
FIRST_IN_LINE = re.compile(r"^<!-- figure [^\n]*", re.MULTILINE)
ANY = re.compile(r"<!-- /?(?:table|figure|source)\b")

Table = Callable[[list[Path]], str]
"""Reports to Markdown."""


def fill(text: str, root: Path, tables: dict[str, Table]) -> str:
    """A page with every table and every figure written anew.

    Args:
        text: The page.
        root: Folder that the paths in it start from.
        tables: Generators by name.

    Raises:
        ConfigError: A comment is not closed or not understood, or what it names is not there.
    """
    sources = dict(SOURCE.findall(text))
    check_closed(text)

    def table(words: list[str]) -> str:
        if not words or words[0] not in tables:
            name, known = words[0] if words else "", ", ".join(tables)
            raise ConfigError(f"no table is called '{name}'.{did_you_mean(name, tables)} There are: {known}.")
        return tables[words[0]](list(_files(root, (sources.get(word, word) for word in words[1:])))).rstrip() + "\n"

    def figure(words: list[str]) -> str:
        if len(words) < 3:
            raise ConfigError("a figure needs a file, a way to a value, and a format")
        return written(find(load(root / sources.get(words[0], words[0])), words[1:-1]), words[-1])

    for pattern, make in ((TABLE, table), (FIGURE, figure)):
        text = pattern.sub(partial(_replaced, make), text)
    return text


def without_filled(text: str) -> str:
    """What is left of a page when tables and figures, and the comments around them, are taken out."""
    for pattern in (TABLE, FIGURE, SOURCE):
        text = pattern.sub("", text)
    return text


def check_closed(text: str) -> None:
    """Refuse a comment that lacks its other half.

    Raises:
        ConfigError: There is one.
    """
    left = without_filled(text)
    found = ANY.search(left)
    if found:
        line = left[found.start() :].splitlines()[0]
        raise ConfigError(f"not opened, not closed, or not understood: {line[:100]}")
    first = FIRST_IN_LINE.search(text)
    if first:
        # Markdown takes such a line for HTML, as it stands.
        raise ConfigError(f"a figure may not be the first thing in a line: {first.group()[:100]}")


def _replaced(make: Callable[[list[str]], str], found: re.Match[str]) -> str:
    try:
        made = make(shlex.split(found["words"]))
    except (ConfigError, ValueError) as error:
        raise ConfigError(f"{found['begin'].strip()}: {error}") from error
    return f"{found['begin']}{made}{found['end']}"


def _files(root: Path, patterns: Iterable[str]) -> Iterable[Path]:
    for pattern in patterns:
        paths = sorted(root.glob(pattern))
        if not paths:
            raise ConfigError(f"no file matches '{pattern}'")
        yield from paths
