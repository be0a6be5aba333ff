"""Sets of calls, some of which may be half: one tuple of whole numbers, in the order of the evaluations.

An evaluation that is computed whole is its number. One of which the conditional guidance branch alone is computed, at
half the arithmetic, is ``~`` its number: -1 - 7 for evaluation 7. So a set without halves is what it always was, in
memory and in every file.
"""

from collections.abc import Collection, Iterable

Steps = tuple[int, ...]

HALF = 0.5  # what one of two branches costs


def at(name: int) -> int:
    """The evaluation."""
    return name if name >= 0 else ~name


def whole(steps: Iterable[int]) -> Steps:
    """The evaluations that are computed whole."""
    return tuple(name for name in steps if name >= 0)


def halves(steps: Iterable[int]) -> Steps:
    """The evaluations of which the conditional branch alone is computed."""
    return tuple(~name for name in steps if name < 0)


def joined(whole: Iterable[int], halves: Iterable[int] = ()) -> Steps:
    """The set of both; what is computed whole is not also half."""
    full = set(whole)
    return tuple(sorted([*full, *(~step for step in set(halves) - full)], key=at))


def cost_of(steps: Collection[int]) -> float:
    """In whole calls."""
    return len(whole(steps)) + HALF * len(halves(steps))


def words(steps: Collection[int]) -> str:
    """``13``, or ``12.5`` where there are half calls."""
    return f"{cost_of(steps):g}"
