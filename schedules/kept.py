"""Which computed steps a reuse reads, and what a Taylor series of their outputs is: rows in, plain numbers out."""

import math
from collections.abc import Collection, Sequence

from dit_accel.schedules.schedule import Schedule


def kept_steps(
    row: Sequence[bool], depth: int = 1, absent: Collection[int] = ()
) -> tuple[tuple[int, ...] | None, ...]:
    """For each step at which a site is reused the steps whose outputs there are, newest first, ``depth`` at most.

    The rules are those of :func:`~dit_accel.schedules.lowering.lower`: nothing happens at an absent step, and what was
    to be recomputed there is recomputed at the next one that runs.

    Args:
        row: A site's row of a schedule.
        depth: How many outputs a reuse reads.
        absent: Steps at which the denoiser is not called.

    Returns:
        One entry a step; ``None`` where the site is computed, or the step absent.
    """
    gone = frozenset(absent)
    found: list[tuple[int, ...] | None] = []
    computed: list[int] = []
    due = False
    for step, recompute in enumerate(row):
        wanted = recompute or due or not computed
        if step in gone:
            due = wanted
            found.append(None)
            continue
        due = False
        if wanted:
            computed.append(step)
        found.append(None if wanted else tuple(reversed(computed[-depth:])))
    return tuple(found)


def taylor_weights(nodes: Sequence[int], step: int) -> tuple[float, ...]:
    """Weights of the outputs at ``nodes`` in their Taylor series at ``step``, derivatives by finite differences.

    The forecast of TaylorSeer (Liu et al., arXiv 2503.06923, equation 6): one node is the value itself, two a line,
    three a parabola whose derivatives are backward differences.

    Args:
        nodes: Steps, newest first, all different.
        step: Where the series is wanted.
    """
    size = len(nodes)
    differences = [[float(i == j) for j in range(size)] for i in range(size)]
    weights = list(differences[0])
    for order in range(1, size):
        gaps = [nodes[i] - nodes[i + 1] for i in range(len(differences) - 1)]
        differences = [
            [(a - b) / gap for a, b in zip(differences[i], differences[i + 1], strict=True)]
            for i, gap in enumerate(gaps)
        ]
        factor = (step - nodes[0]) ** order / math.factorial(order)
        weights = [weight + factor * part for weight, part in zip(weights, differences[0], strict=True)]
    return tuple(weights)


def spread(schedule: Schedule, steps: Sequence[int], num_steps: int) -> Schedule:
    """A schedule of the steps that are left as one of all: what it says of its k-th step is said of ``steps[k]``.

    For plans in which a trajectory answers the other steps: a rule such as "every second time" is then one of the
    calls that are made.

    Args:
        schedule: Of as many steps as ``steps`` has.
        steps: Which of all, in order; the first one is 0.
        num_steps: Of all.

    Raises:
        ValueError: Their numbers differ, or they do not begin with 0.
    """
    if len(steps) != schedule.num_steps or not steps or steps[0] != 0:
        raise ValueError(f"a schedule of {schedule.num_steps} steps cannot be spread over the steps {list(steps)}")
    rows = {}
    for site, row in schedule.recompute.items():
        at = dict(zip(steps, row, strict=True))
        rows[site] = [at.get(step, False) for step in range(num_steps)]
    return Schedule(num_steps, rows)
