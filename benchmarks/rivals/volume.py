"""How much of the plane of speed and closeness each technique's settings cover: the hypervolume of its front.

The area (Zitzler & Thiele 1999, by moocore, https://multi-objective.github.io/moocore/) of all points that some
setting of the technique is both faster and closer than, down to a reference that is stated. One number for a whole
front, with the faults of one: it depends on the reference, and who offers more settings covers more.
"""

from collections.abc import Sequence

from dit_accel.errors import MissingDependencyError
from dit_accel.evaluation.reports.report import Report, Variant
from rivals.front import OURS, contenders, front_of, metric, metric_names, rival_of, speed
from rivals.wording import NAMES

FASTEST = 6.0  # what is faster counts as this fast; the slowest is the plain run
REFERENCES = {"psnr_db": 20.0, "st_lpips": 0.2, "lpips": 0.5}  # whatever is further from the plain run counts nothing
METHOD = f"""\
The area of speed-up (from 1x to {FASTEST:g}x) by PSNR (above {REFERENCES["psnr_db"]:g} dB), or by ST-LPIPS (below \
{REFERENCES["st_lpips"]:g}),
in which a setting of the technique is both faster and closer: one number for all of its settings, by
[moocore](https://multi-objective.github.io/moocore/). It depends on these limits, and who has more settings covers
more."""


def volumes(report: Report, name: str) -> dict[str, float]:
    """The hypervolume of every technique, plain fewer steps among them, largest first.

    Args:
        report: A comparison of techniques.
        name: A metric that all of them have.

    Raises:
        MissingDependencyError: moocore is not installed.
    """
    variants = contenders(report)
    found = {
        rival: volume([each for each in variants if rival_of(each) == rival], name)
        for rival in dict.fromkeys(map(rival_of, variants))
    }
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def volume(variants: Sequence[Variant], name: str) -> float:
    """The area that these settings cover, in speed-up times the metric's unit.

    Raises:
        MissingDependencyError: moocore is not installed.
    """
    try:
        import moocore
    except ImportError as error:
        raise MissingDependencyError.for_extra("moocore", "bench", "a hypervolume") from error
    reference = REFERENCES[name]
    higher = name == "psnr_db"
    points = [(min(speed(each), FASTEST), metric(each, name).mean) for each in front_of(variants, name)]
    inside = [(fast, value) for fast, value in points if fast > 1 and (value > reference) == higher]
    if not inside:
        return 0.0
    return float(moocore.hypervolume(inside, ref=[1.0, reference], maximise=[True, higher]))


def volume_lines(report: Report) -> list[str]:
    """A sentence for each metric: ours against the best of the others, in per cent."""
    words = []
    for name in sorted(metric_names(report), key=lambda each: each != "psnr_db"):
        found = volumes(report, name)
        own = found.pop(OURS, None)
        if own is None or not found:
            continue
        rival, best = next(iter(found.items()))
        if not best:
            words.append(f"by {NAMES[name]} no other technique covers anything")
            continue
        share = own / best - 1
        much = f"{abs(share):.0%} {'more' if share >= 0 else 'less'}"
        words.append(f"by {NAMES[name]} dit-accel covers {much} than {rival}, the best of the others")
    return [f"Hypervolume: {'; '.join(words)}."] if words else []


def volume_table(report: Report) -> list[str]:
    """The area of every technique, as Markdown."""
    names = sorted(metric_names(report), key=lambda each: each != "psnr_db")
    found = {name: volumes(report, name) for name in names}
    lines = [f"| | {' | '.join(NAMES[name] for name in names)} |", f"|---|{'---:|' * len(names)}"]
    for rival in found[names[0]]:
        lines.append(f"| {rival} | {' | '.join(_volume(found[name][rival], name) for name in names)} |")
    return lines


def _volume(area: float, name: str) -> str:
    return f"{area:.1f}" if name == "psnr_db" else f"{area:.4f}"
