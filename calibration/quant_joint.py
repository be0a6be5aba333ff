"""A quantised plan and a trajectory in one: the trajectory is fitted anew, to the quantised model's outputs.

CacheQuant's point (arXiv 2503.01323) is that both have to be found together: what is kept or carried on from earlier
outputs carries their rounding errors on. The run that answers are fitted on is the quantised one, the run they are to
stay on is the plain one, so that what rounding did to earlier steps is made good by later answers as far as it can be;
and what the weights may make of rounding noise is bounded (:mod:`.calm`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dit_accel.api import accelerated, is_accelerated
from dit_accel.calibration.beginnings import trajectory_of
from dit_accel.calibration.calm import MOST_GAIN, check_gain, largest_gain
from dit_accel.calibration.fit import fit
from dit_accel.calibration.guard import with_guard
from dit_accel.calibration.recording import record
from dit_accel.calibration.subject import subject_of
from dit_accel.errors import ConfigError
from dit_accel.evaluation.metrics.fidelity import differences
from dit_accel.evaluation.metrics.perceptual import available_perceptual
from dit_accel.passes.quantize.config import QuantizeConfig
from dit_accel.passes.trajectory.config import TrajectoryConfig
from dit_accel.pipelines.generation import GenerationSettings, generate, makes_video
from dit_accel.plan.plan import NOT_CERTIFIED, AccelerationPlan
from dit_accel.prompts import load_prompts

JUDGED = 8  # prompts that nothing was fitted to
JUDGED_SEED = 70_000
NOTE = f"trajectory fitted on the quantised model, {NOT_CERTIFIED}: `dit-accel certify` measures it on other prompts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """What came of it.

    Attributes:
        plan: Both passes, and what else either plan had.
        gain: The largest of the answers; see :mod:`.calm`.
        scores: Means over prompts that nothing was fitted to, by what is applied: ``"quantised"``, ``"trajectory"``
            (as it was, on the model in full), ``"together"`` (as it was, on the quantised one), ``"joint"``.
    """

    plan: AccelerationPlan
    gain: float
    scores: dict[str, dict[str, float]]


def join(
    pipe: Any,
    quantised: AccelerationPlan,
    other: AccelerationPlan,
    *,
    model: str,
    settings: GenerationSettings | None = None,
    num_prompts: int | None = None,
    most_gain: float = MOST_GAIN,
    judged: int = JUDGED,
) -> Joint:
    """Fit the trajectory of a plan to a quantised model.

    Args:
        pipe: A pipeline that is not accelerated; it is left as it was.
        quantised: A plan that quantises it.
        other: A plan with a trajectory; its computed evaluations are taken, its weights are fitted anew.
        model: What the pipeline was loaded from.
        settings: Of the run; ``None``: the pipeline's own.
        num_prompts: To fit to; ``None``: 32 images or 12 videos.
        most_gain: Of rounding noise, that an answer may have; at least 1.
        judged: Prompts that it is judged on; 0: it is not.

    Raises:
        ConfigError: One plan does not quantise, the other has no trajectory or quantises too, or the bound is below 1.
        UnsupportedModelError: The scheduler's step is not linear in the output.
    """
    check_gain(most_gain)
    if is_accelerated(pipe):
        raise ConfigError("the pipeline is accelerated already; join plans on a plain one")
    config = next((each for each in quantised.passes if isinstance(each, QuantizeConfig)), None)
    if config is None:
        raise ConfigError(f"plan '{quantised.name}' does not quantise, so there is nothing to fit a trajectory on")
    if any(isinstance(each, QuantizeConfig) for each in other.passes):
        raise ConfigError(f"plan '{other.name}' quantises too; give one that does not")
    trajectory = trajectory_of(other)
    subject = subject_of(pipe, model, settings, num_prompts=num_prompts)
    draw, count = subject.draw_at(), subject.count
    reference = record(pipe, draw, 0, count)
    steps = reference.num_steps
    half = [step for step, alone in enumerate(trajectory.conditional) if alone]
    fitted = fit(
        pipe,
        draw,
        reference,
        trajectory.steps_of(steps),
        0,
        count,
        branches=trajectory.unconditional is not None,
        conditional=half if trajectory.num_steps == steps else (),
        beneath=(config,),
        most_gain=most_gain,
    ).config
    fitted = with_guard(pipe, draw, fitted, 0, count, beneath=(config,))
    rest = tuple(each for each in other.passes if not isinstance(each, TrajectoryConfig))
    plan = AccelerationPlan(
        name=f"{quantised.name}-{other.name}",
        passes=(*quantised.passes, *rest, fitted),
        fingerprints=subject.fingerprints,
        conditions=reference.conditions,
        notes=(NOTE,),
    )
    kinds = {
        "quantised": quantised.passes,
        "trajectory": other.passes,
        "together": (*quantised.passes, *other.passes),
        "joint": plan.passes,
    }
    listed = load_prompts("search", "video" if makes_video(pipe) else "image").prompts[count : count + judged]
    scores = _judged(pipe, kinds, listed, settings or GenerationSettings()) if listed else {}
    return Joint(plan=plan, gain=largest_gain(fitted, scale=reference.conditions.guidance_scale), scores=scores)


def _judged(
    pipe: Any, kinds: dict[str, tuple[Any, ...]], prompts: Sequence[str], settings: GenerationSettings
) -> dict[str, dict[str, float]]:
    size, seeds = 1 if makes_video(pipe) else 4, range(JUDGED_SEED, JUDGED_SEED + len(prompts))
    wanted = generate(pipe, prompts, seeds, settings, batch_size=size)
    found = {}
    for name, passes in kinds.items():
        with accelerated(pipe, list(passes)):
            drawn = generate(pipe, prompts, seeds, settings, batch_size=size)
        scores = differences(drawn, wanted, perceptual=available_perceptual())
        found[name] = {metric: sum(values) / len(values) for metric, values in scores.items()}
    return found
