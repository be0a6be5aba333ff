"""How far computed outputs may be from their forecasts: the limits by which the guard of a plan keeps watch.

They are measured by the guard itself, in runs of the plan as it will be applied, so that what is compared later is
what was compared here: every guidance branch by itself, the worst sample of a batch.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dit_accel.api import accelerated
from dit_accel.calibration.recording import Draw
from dit_accel.errors import AccelerationWarning
from dit_accel.passes.trajectory.apply import Forecasts, TrajectoryConfig
from dit_accel.passes.trajectory.config import NAME
from dit_accel.plan.config import PassConfig
from dit_accel.session.session import session_of

MARGIN = 1.25  # how much further from its forecast than ever in calibration an output may be


def with_guard(
    pipe: Any, draw: Draw, config: TrajectoryConfig, first: int, last: int, beneath: Sequence[PassConfig] = ()
) -> TrajectoryConfig:
    """The plan with limits for its guard, which stays off; costs one accelerated run.

    Args:
        pipe: The pipeline that the plan was fitted to.
        draw: Draws prompts.
        config: A fitted plan.
        first: Of the prompts.
        last: One past the last prompt.
        beneath: What it is applied together with.
    """
    if config.weights is None or config.computed is None:
        return config
    watching = replace(config, guard=(math.inf,) * len(config.computed), guarded=True)
    seen: dict[int, float] = {}
    with warnings.catch_warnings(), accelerated(pipe, [*beneath, watching]):
        warnings.simplefilter("ignore", AccelerationWarning)
        draw(first, last)
        session = session_of(pipe)
        assert session is not None
        for runtime in session.runtimes:
            forecasts = runtime.around_of(NAME)
            assert isinstance(forecasts, Forecasts)
            seen.update(forecasts.seen)
    guard = tuple(MARGIN * seen.get(step, 0.0) for step in range(len(config.computed)))
    return replace(config, guard=guard)
