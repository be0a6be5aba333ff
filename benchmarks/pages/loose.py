"""Finds measured quantities that a page states by hand: a number with a unit outside a table and a figure."""

import re
from collections.abc import Iterable

from pages.markers import without_filled

_WORD = r"(?:half[ ]a|an?|one|two|three|four|five|six|seven|eight|nine|ten|twelve|twenty|thirty|a[ ]hundred)"
_LONG_UNIT = r"(?:seconds?|minutes?|hours?|per[ ]cent|decibels?|times)"
_UNIT = rf"(?:dB|ms|s|min|h|kB|MB|MiB|GB|GiB|GMACs?|TMACs?|GFLOPs?|TFLOPs?|{_LONG_UNIT})"
QUANTITY = re.compile(
    rf"""
      (?<![\w.])\d[\d.,]*[ -]?{_UNIT}\b      # 38.5 dB, 2.17 s, 30 seconds
    | \b{_WORD}[ -]{_LONG_UNIT}\b            # two minutes, a hundred times
    | (?<![\w.])\d[\d.,]*[ ]?%              # 95 %
    | (?<![\w.])\d[\d.,]*x(?!\w)            # 2.74x, and not 64 x 64
    | \bn[ ]?=[ ]?\d[\d,]*                  # n = 200
    """,
    re.VERBOSE,
)


def loose_quantities(text: str, exceptions: Iterable[str] = ()) -> list[str]:
    """Quantities that no report stands behind, each with the line it stands in.

    Args:
        text: The page.
        exceptions: Words in which a number with a unit is none that was measured; each must occur.

    Raises:
        ValueError: An exception does not occur: the page has changed, and it would hide the next one.
    """
    left = without_filled(text)
    for words in exceptions:
        if words not in left:
            raise ValueError(f"'{words}' is an exception and does not stand in the page")
        left = left.replace(words, "")
    return [f"{found.group()!r} in: {line.strip()}" for line in left.splitlines() for found in QUANTITY.finditer(line)]
