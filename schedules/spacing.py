"""Where in a run the full steps stand, by rule: evenly, crowded to one end, or around a step."""

import math

from dit_accel.schedules.schedule import ScheduleError

MODES = ("uniform", "early", "late", "middle")
_POWER_STEP = 0.02  # by so much the authors of DeepCache lower a power that makes two steps one


def crowded(num_steps: int, count: int, power: float) -> tuple[int, ...]:
    """Step i is ``round(T * (i / count) ** power)``, moved where two would be one or the end be passed.

    Args:
        num_steps: T.
        count: How many.
        power: 1 is even spacing; above 1, they crowd at the start; below 1, at the end.

    Raises:
        ScheduleError: ``power`` is not above 0.
    """
    if not power > 0:
        raise ScheduleError(f"'power' must be above 0, got {power}")
    chosen: list[int] = []
    for i in range(count):
        step = round(num_steps * (i / count) ** power)
        room = num_steps - (count - i)  # leaves a step for each of those still to come
        chosen.append(min(max(step, chosen[-1] + 1), room) if chosen else 0)
    return tuple(chosen)


def crowded_around(num_steps: int, count: int, power: float, centre_frac: float = 0.4) -> tuple[int, ...]:
    """At most ``count`` steps that crowd around a part of the run, those before it mirrored; and step 0."""
    centre = centre_frac * num_steps
    low, high = -(centre ** (1 / power)), (num_steps - centre) ** (1 / power)
    points = [low + (high - low) * i / count for i in range(count)]
    places = (round(math.copysign(abs(point) ** power, point) + centre) for point in points)
    return tuple(sorted({0, *(min(num_steps - 1, max(0, place)) for place in places)}))


def quadratic(num_steps: int, count: int, centre: int, power: float) -> tuple[int, ...]:
    """DeepCache's steps around a centre, as its authors' code has them (Ma et al., arXiv 2312.00858).

    The power of a negative number is complex there. Points on the line from (-centre) ** (1 / power) to
    (T - centre) ** (1 / power) are raised to ``power``, and their real parts cut to whole numbers. While two of them
    are the same, the power is lowered.

    Args:
        num_steps: T.
        count: How many.
        centre: The step around which they crowd; the authors take 15 of 50 for Stable Diffusion.
        power: Above 1; 1.4 there, 1.2 by default.

    Raises:
        ScheduleError: No power above 1 gives so many different steps.
    """
    if not 0 <= centre < num_steps:
        raise ScheduleError(f"'centre' must be a step of the run, 0 to {num_steps - 1}, got {centre}")
    asked = power
    while power > 1:
        low, high = complex(-centre) ** (1 / power), complex(num_steps - centre) ** (1 / power)
        points = sorted({int(((low + (high - low) * i / count) ** power).real) for i in range(count + 1)})
        steps = (0, *(point + centre for point in points[1:-1]))
        if len(steps) == count:
            return steps
        power -= _POWER_STEP
    raise ScheduleError(
        f"no power from {asked} down to 1 gives {count} different steps of {num_steps} around step {centre}: take "
        "fewer, or an earlier centre"
    )


def spaced(mode: str, num_steps: int, n: int, power: float) -> tuple[int, ...]:
    """One step in ``n`` by one of the :data:`MODES`; all but the uniform one crowd more, the greater ``power`` is.

    Raises:
        ScheduleError: There is no such mode, or ``power`` is below 1.
    """
    if mode not in MODES:
        raise ScheduleError(f"'mode' must be one of {', '.join(MODES)}, got '{mode}'")
    if not power >= 1:
        raise ScheduleError(f"'power' must be at least 1, got {power}")
    if mode == "uniform":
        return tuple(range(0, num_steps, n))
    count = -(-num_steps // n)
    if mode == "early":
        return crowded(num_steps, count, power)
    if mode == "late":
        return crowded(num_steps, count, 1 / power)
    return crowded_around(num_steps, count, power, 0.5)
