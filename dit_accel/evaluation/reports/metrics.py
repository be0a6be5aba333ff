"""The metrics of a record, by name."""

from dit_accel.evaluation.reports.records import Fidelity, Metric, Quality
from dit_accel.plan.facts import FIDELITY, VIDEO_FIDELITY


def fidelity_metrics(fidelity: Fidelity) -> dict[str, Metric]:
    """What was measured, by name; of videos also how they change over time."""
    found = {name: getattr(fidelity, name) for name in FIDELITY if getattr(fidelity, name) is not None}
    if fidelity.video is not None:
        found |= {name: getattr(fidelity.video, name) for name in VIDEO_FIDELITY}
    return found


def quality_metrics(quality: Quality) -> dict[str, Metric]:
    """What was measured of images or videos by themselves that has an interval, by name; a judge's is its own."""
    found = {alignment.name: alignment.scores for alignment in quality.alignment}
    for name in ("temporal_flickering", "frame_consistency", "motion_right"):
        if quality.video is not None and (metric := getattr(quality.video, name)) is not None:
            found[name] = metric
    return found
