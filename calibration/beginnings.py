"""What a search begins with: the surrogate's best choice of every size, theory's, and the calls of known plans.

What is begun with is judged like everything else, so that a new search never ends below a plan that it was given: at
the calls of that plan, with weights fitted anew to this search's prompts, or at better ones.
"""

from collections.abc import Collection, Sequence

from dit_accel.calibration.calls import Steps, joined
from dit_accel.calibration.choose import Gaps, choose_steps
from dit_accel.errors import ConfigError
from dit_accel.passes.trajectory.apply import TrajectoryConfig
from dit_accel.plan.plan import AccelerationPlan
from dit_accel.schedules.theory import typical_steps


def first_choices(gaps: Gaps, plans: Sequence[AccelerationPlan] = (), *, half_calls: bool = False) -> list[Steps]:
    """The sets of steps that a search begins with: of the surrogate for every size, of theory for twofold, of plans.

    Half calls of plans are among them where ``half_calls`` are searched for.

    Raises:
        ConfigError: A plan says nothing of which evaluations are computed.
    """
    found = [choice.computed for size in ladder(gaps.steps) for choice in choose_steps(gaps, size, count=1)]
    found.append(tuple(sorted({*typical_steps(gaps.steps, max(2, gaps.steps // 2)), *gaps.boundaries})))
    for plan in plans:
        steps, config = steps_of_plan(plan, gaps.steps, gaps.boundaries), trajectory_of(plan)
        half = [step for step, alone in enumerate(config.conditional) if alone]
        found.append(joined(steps, half if half_calls and config.num_steps == gaps.steps else ()))
    return list(dict.fromkeys(found))


def trajectory_of(plan: AccelerationPlan) -> TrajectoryConfig:
    """The pass of a plan that says which evaluations are computed.

    Raises:
        ConfigError: It has none.
    """
    for config in plan.passes:
        if isinstance(config, TrajectoryConfig):
            return config
    names = ", ".join(config.type_name for config in plan.passes) or "nothing"
    raise ConfigError(
        f"a search cannot begin with plan '{plan.name}': it computes every denoiser call ({names}); give one with a "
        "trajectory, such as a calibrated one"
    )


def steps_of_plan(plan: AccelerationPlan, num_steps: int, boundaries: Collection[int] = ()) -> Steps:
    """The evaluations that a plan computes in a run of ``num_steps``; of another T as large a share, spread alike.

    Args:
        plan: With a trajectory; what else it does is left out.
        num_steps: T.
        boundaries: Evaluations that are computed whatever the plan says.

    Raises:
        ConfigError: The plan has no trajectory.
    """
    return tuple(sorted({0, *trajectory_of(plan).steps_of(num_steps), *boundaries}))


def told(plan: AccelerationPlan) -> str:
    """Which evaluations a plan computes, as text."""
    config = trajectory_of(plan)
    return f"{config.speedup:g}x" if config.computed is None else str(config.to_dict()["computed"])


def ladder(num_steps: int) -> list[int]:
    """How many steps to compute: from a seventh of all to four fifths, a tenth apart or more."""
    sizes, size = [], float(max(3, num_steps // 7))
    while size <= 0.8 * num_steps:
        sizes.append(round(size))
        size = max(size + 1, size * 1.12)
    return sizes
