"""The rule by which a schedule made for one step count is used with another."""

from dit_accel.schedules.schedule import Schedule, ScheduleError


def resample(schedule: Schedule, num_steps: int) -> Schedule:
    """Carry a schedule to another number of denoiser evaluations.

    New step ``j`` of T' takes the decision of the old step that covers the same part of the trajectory,
    ``floor(j * T / T')``, and step 0 is recomputed. So a kept value is never older, in normalised time, than the
    original schedule allowed, give or take one step; going to more steps keeps the reused fraction, going to fewer
    lowers it (a schedule of 20 steps that computes every second one computes all of 10).

    Args:
        schedule: T steps.
        num_steps: T', at least 1.

    Raises:
        ScheduleError: ``num_steps`` is smaller than 1.
    """
    if num_steps < 1:
        raise ScheduleError(f"cannot resample to {num_steps} steps")
    if num_steps == schedule.num_steps:
        return schedule
    source = [j * schedule.num_steps // num_steps for j in range(num_steps)]
    return Schedule(num_steps, {site: [bits[i] for i in source] for site, bits in schedule.recompute.items()})
