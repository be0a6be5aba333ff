"""Results that may not be there yet: a page then says so, and which command makes them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pages.documents import ROOT
from pages.values import load

RESULTS = ROOT / "benchmarks" / "results"
NOT_YET = "not measured yet"


def if_measured(name: str, command: str, block: Callable[[Mapping[str, Any]], str], folder: Path = RESULTS) -> str:
    """A block of a result, or what makes that.

    Args:
        name: Of the result's file.
        command: That writes it.
        block: From the result to Markdown.
        folder: Of results.
    """
    path = folder / name
    return block(load(path)) if path.is_file() else f"Not measured yet: `{command}`."
