"""The rule by which a schedule made for one step count is used with another."""

from dit_accel.schedules.schedule import Schedule, ScheduleError


def resample(schedule: Schedule, num_steps: int) -> Schedule:
    """Carry a schedule to another number of denoiser evaluations.

    New step ``j`` of T' stands at the same part of the trajectory as old step ``floor(j * T / T')``. It recomputes
    when the old schedule does so there or at any old step passed over since new step ``j - 1``; step 0 is recomputed.
    So a kept value is never older, in normalised time, than the original schedule allowed, give or take one old step;
    going to more steps keeps the reused fraction, going to fewer lowers it (a schedule of 20 steps that computes
    every second one computes all of 10).

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
    # The old steps that each new one stands for: at least its own source, which several new steps may share.
    spans = [range(min(before + 1, here), here + 1) for before, here in zip([-1, *source], source, strict=False)]
    return Schedule(
        num_steps,
        {site: [any(bits[i] for i in span) for span in spans] for site, bits in schedule.recompute.items()},
    )
