"""Families and passes as Markdown."""

from collections.abc import Iterable, Sequence
from typing import Any

from dit_accel.passes.base import Pass
from pages.families import Answers

GUIDANCE = {"batched": "one batch of two", "two_calls": "two calls", "unknown": "not known"}
TEXT = {
    "cross": "cross-attention",
    "prefix": "before the image's tokens",
    "suffix": "after the image's tokens",
    "pooled": "modulation only",
    "unknown": "not known",
}


def families_block(answers: Sequence[Answers], not_asked: Sequence[str] = ()) -> str:
    """Every family with what the passes say of it, then the reasons of those that refuse.

    Args:
        answers: Of every family.
        not_asked: Described classes of which there is no tiny model.
    """
    names = list(answers[0].obstacles)
    titles = ["family", "denoiser", "text", "guidance", "kinds of sites", *(f"`{name}`" for name in names)]
    lines = [_line(titles), "|---" * len(titles) + "|"]
    for each in answers:
        family = each.family
        cells = [f"`{family.name}`", _code(each.classes)]
        cells += [TEXT.get(family.text, family.text), GUIDANCE.get(family.guidance, family.guidance)]
        lines.append(_line([*cells, str(len(each.kinds)), *map(each.works, names)]))
    reasons = [line for each in answers for name in names for line in _reasons(each, name)]
    lines += ["", *(reasons or ["No pass refuses any of them."])]
    if not_asked:
        lines += ["", f"Described, but not asked for want of a tiny model: {_code(not_asked)}."]
    return "\n".join(lines)


def kinds_block(answers: Sequence[Answers]) -> str:
    """The kinds of sites of every family."""
    lines = ["| family | kinds of sites that a schedule may name |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{each.family.name}` | {_code(each.kinds)} |" for each in answers)])


def groups_block(answers: Sequence[Answers]) -> str:
    """Families of which the passes say the same in one row, the largest group first."""
    names = list(answers[0].obstacles)
    groups: dict[tuple[str, ...], list[str]] = {}
    for each in answers:
        groups.setdefault(tuple(map(each.works, names)), []).append(each.family.name)
    lines = [_line(["families", *(f"`{name}`" for name in names)]), "|---|" + ":---:|" * len(names)]
    order = sorted(groups.items(), key=lambda item: -len(item[1]))
    return "\n".join([*lines, *(_line([_code(families), *words]) for words, families in order)])


def passes_block(passes: Sequence[Pass[Any]]) -> str:
    """Every pass: what it does, what it changes, and what it cannot be combined with."""
    lines = ["| pass | what it does | changes | can be undone | not together with |", "|---|---|---|---|---|"]
    for each in passes:
        reasons = {other.name: reason for other in passes if other is not each and (reason := _conflict(each, other))}
        not_with = "; ".join(f"`{name}`: {reason}" for name, reason in reasons.items())
        undone = "yes" if each.reversible else "no"
        lines.append(_line([f"`{each.name}`", each.summary, each.phase, undone, not_with]))
    return "\n".join(lines)


def _conflict(one: Pass[Any], other: Pass[Any]) -> str | None:
    """Why two passes cannot be combined; ``None`` when they can."""
    declared = one.conflicts.get(other.name) or other.conflicts.get(one.name)
    claims = " and ".join(sorted(one.claims & other.claims))
    return declared or (f"both want to be the one that {claims}" if claims else None)


def _reasons(answers: Answers, name: str) -> Iterable[str]:
    for reason, models in answers.obstacles[name].items():
        where = f" (the tiny {_code(models)})" if name in answers.partly else ""
        yield f"- `{name}` on `{answers.family.name}`{where}: {reason}."


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
