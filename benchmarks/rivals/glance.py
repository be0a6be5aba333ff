"""What a reader should see first of a report: a few techniques at a few speeds, and whether any beats fewer steps."""

from collections.abc import Sequence

from dit_accel.evaluation.reports.report import Report, Variant
from rivals.front import OURS, SPEEDS, best_of, contenders, metric, overlap, rival_of, shown_rivals, speed
from rivals.measure import FEWER
from rivals.wording import NAMES, number

NONE_SO_FAST = "-"


def glance(report: Report, name: str = "psnr_db") -> list[str]:
    """A table with plain fewer steps as its last row, and a sentence on where they are beaten."""
    rivals = (*shown_rivals(report, name), OURS, FEWER)
    best = {least: {rival: best_of(report, rival, least, name) for rival in rivals} for least in SPEEDS}
    unit = ", dB," if name == "psnr_db" else ""
    lines = [
        f"| {NAMES[name]}{unit} at about | {' | '.join(f'{least:g}x' for least in SPEEDS)} |",
        "|---" * (len(SPEEDS) + 1) + "|",
    ]
    for rival in rivals:
        cells = [_cell(best[least][rival], list(best[least].values()), name) for least in SPEEDS]
        lines.append(f"| {rival} | {' | '.join(cells)} |")
    return [*lines, "", _against_fewer_steps(report, name)]


def _cell(variant: Variant | None, column: Sequence[Variant | None], name: str) -> str:
    """Value with interval, setting and speed; bold where nobody in the column is closer and told apart."""
    if variant is None:
        return NONE_SO_FAST
    found = metric(variant, name)
    others = [other for other in column if other is not None and other is not variant]
    beaten = any(_apart(other, variant, name) for other in others)
    text = number(found.mean, name)
    ends = ", ".join(number(end, name) for end in found.ci95)
    setting = variant.name.removeprefix(rival_of(variant)).strip() or variant.name
    return f"{text if beaten else f'**{text}**'} [{ends}]<br>{setting}, {speed(variant):.2f}x"


def _against_fewer_steps(report: Report, name: str) -> str:
    """Who beats fewer steps, at each speed."""
    rivals = [rival for rival in dict.fromkeys(map(rival_of, contenders(report))) if rival != FEWER]
    words = []
    for least in SPEEDS:
        plain = best_of(report, FEWER, least, name)
        found = {rival: variant for rival in rivals if (variant := best_of(report, rival, least, name)) is not None}
        if plain is None:
            words.append(f"at {least:g}x fewer steps were not measured")
        else:
            beating = [rival for rival, variant in found.items() if _apart(variant, plain, name)]
            words.append(f"at {least:g}x {', '.join(sorted(beating, key=str.lower)) or 'nobody'}")
    return f"Closer than fewer steps, and told apart from them: {'; '.join(words)}."


def _apart(one: Variant, other: Variant, name: str) -> bool:
    """Whether ``one`` is closer to the plain run, and their intervals do not overlap."""
    left, right = metric(one, name), metric(other, name)
    closer = left.mean > right.mean if left.higher_is_better else left.mean < right.mean
    return closer and not overlap(one, other, name)
