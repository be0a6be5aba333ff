"""One sentence for each speed and metric: who is closest to the plain run, and where we and fewer steps stand."""

from dit_accel.evaluation.reports.report import Report
from rivals.front import OURS, acted, best_of, closest, contenders, is_fast, metric_names, overlap, rival_of, speed
from rivals.measure import FEWER
from rivals.wording import NAMES, value

SPEEDS = (1.25, 1.5, 2.0, 3.0, 4.0)


def verdicts(report: Report) -> list[str]:
    """As a Markdown list."""
    return [f"- {_verdict(report, least, name)}" for least in SPEEDS for name in metric_names(report)]


def _verdict(report: Report, least: float, name: str) -> str:
    variants = contenders(report)
    best = closest(variants, least, name)
    if best is None:
        return f"At about {least:g}x or more: nobody."
    others = [variant for variant in variants if rival_of(variant) != rival_of(best)]
    tied = [
        variant for variant in others if is_fast(variant, least) and acted(variant) and overlap(variant, best, name)
    ]
    words = [
        f"At about {least:g}x or more, by {NAMES[name]}: **{best.name}** ({value(best, name)}, {speed(best):.2f}x)."
    ]
    if tied:
        next_best = closest(tied, least, name)
        assert next_best is not None
        words.append(f"Not told apart from {next_best.name} ({value(next_best, name)}).")
    for rival, word in ((OURS, "dit-accel"), (FEWER, "Fewer steps")):
        own = best_of(report, rival, least, name)
        if rival == rival_of(best):
            words.append("That is us." if rival == OURS else "No technique beats plain fewer steps here.")
        elif own is not None:
            words.append(f"{word} at its best: {own.name} ({value(own, name)}).")
        else:
            words.append(f"{word}: nothing so fast.")
    return " ".join(words)
