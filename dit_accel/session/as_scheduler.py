"""Plans that need no hook: a scheduler that does what they do."""

from typing import Any

from dit_accel.errors import ConfigError
from dit_accel.passes.base import pass_of
from dit_accel.plan.plan import AccelerationPlan


def scheduler_of_plan(plan: AccelerationPlan, scheduler: Any) -> Any:
    """A scheduler that does what the plan's one pass does.

    Raises:
        ConfigError: The plan has several passes, or one that has no such form, or not for its several denoisers.
    """
    able = [config for config in plan.passes if pass_of(config).as_scheduler is not None]
    if len(able) != 1 or len(plan.passes) != 1:
        names = ", ".join(config.type_name for config in plan.passes) or "none"
        raise ConfigError(
            f"only a plan of a single trajectory pass has the form of a scheduler; '{plan.name}' has: {names}"
        )
    make = pass_of(able[0]).as_scheduler
    assert make is not None
    return make(able[0], scheduler, max(1, len(plan.fingerprints)))
