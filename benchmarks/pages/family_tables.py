"""Families and passes as Markdown."""

from collections.abc import Iterable

from pages.families import Answers, ask_families, not_asked, own_passes

GUIDANCE = {"batched": "one batch of two", "two_calls": "two calls", "unknown": "not known"}
TEXT = {
    "cross": "cross-attention",
    "prefix": "before the image's tokens",
    "suffix": "after the image's tokens",
    "pooled": "modulation only",
    "unknown": "not known",
}


def families_block() -> str:
    """Every family with what the passes say of it, then the reasons of those that refuse."""
    names = [each.name for each in own_passes()]
    titles = ["family", "denoiser", "text", "guidance", "kinds of sites", *(f"`{name}`" for name in names)]
    lines = [_line(titles), "|---" * len(titles) + "|"]
    for each in ask_families():
        family = each.family
        cells = [f"`{family.name}`", ", ".join(f"`{name}`" for name in each.classes)]
        cells += [TEXT.get(family.text, family.text), GUIDANCE.get(family.guidance, family.guidance)]
        lines.append(_line([*cells, str(len(each.kinds)), *(each.works(name) for name in names)]))
    reasons = [line for each in ask_families() for name in names for line in _reasons(each, name)]
    lines += ["", *(reasons or ["No pass refuses any of them."])]
    if not_asked():
        lines += ["", f"Described, but not asked for want of a tiny model: {_code(not_asked())}."]
    return "\n".join(lines)


def kinds_block() -> str:
    """The kinds of sites of every family."""
    lines = ["| family | kinds of sites that a schedule may name |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{each.family.name}` | {_code(each.kinds)} |" for each in ask_families())])


def groups_block() -> str:
    """Families of which the passes say the same in one row."""
    names = [each.name for each in own_passes()]
    groups: dict[tuple[str, ...], list[str]] = {}
    for each in ask_families():
        groups.setdefault(tuple(each.works(name) for name in names), []).append(each.family.name)
    lines = [_line(["families", *(f"`{name}`" for name in names)]), "|---|" + ":---:|" * len(names)]
    order = sorted(groups.items(), key=lambda item: -len(item[1]))
    return "\n".join([*lines, *(_line([_code(families), *words]) for words, families in order)])


def passes_block() -> str:
    """Every pass: what it does, when it is applied, and what it cannot be combined with."""
    lines = ["| pass | what it does | changes | can be undone | not together with |", "|---|---|---|---|---|"]
    for each in own_passes():
        rivals = {other.name: f"both want to be the one that {claim}" for other in own_passes() for claim in
                  sorted(each.claims & other.claims) if other is not each}  # fmt: skip
        rivals |= each.conflicts
        rivals |= {other.name: other.conflicts[each.name] for other in own_passes() if each.name in other.conflicts}
        not_with = "; ".join(f"`{name}`: {reason}" for name, reason in rivals.items())
        undone = "yes" if each.reversible else "no"
        lines.append(_line([f"`{each.name}`", each.summary, each.phase, undone, not_with]))
    return "\n".join(lines)


def _reasons(answers: Answers, name: str) -> Iterable[str]:
    for reason, models in answers.obstacles[name].items():
        where = f" (the tiny {_code(models)})" if name in answers.partly else ""
        yield f"- `{name}` on `{answers.family.name}`{where}: {reason}."


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
