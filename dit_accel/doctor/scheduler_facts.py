"""How many denoiser evaluations a scheduler asks for."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerFacts:
    """One scheduler.

    Attributes:
        name: Its class.
        order: Evaluations per solver step, as the scheduler declares it; 1 for most.
        num_steps: What it was asked for.
        evaluations: Denoiser evaluations that ``num_steps`` mean (PNDM: one more, Heun: 2·steps - 1); ``None`` when it
            could not be asked.
        repeats: Whether some timestep values come twice, so that a value does not tell the step.
    """

    name: str
    order: int
    num_steps: int
    evaluations: int | None
    repeats: bool


def scheduler_facts(scheduler: Any, num_steps: int) -> SchedulerFacts:
    """Ask a fresh copy of a scheduler for its timesteps; the given one is left as it is."""
    timesteps = _timesteps(scheduler, num_steps)
    return SchedulerFacts(
        name=type(scheduler).__name__,
        order=int(getattr(scheduler, "order", 1)),
        num_steps=num_steps,
        evaluations=None if timesteps is None else len(timesteps),
        repeats=timesteps is not None and len(set(timesteps)) < len(timesteps),
    )


def _timesteps(scheduler: Any, num_steps: int) -> list[float] | None:
    arguments: dict[str, Any] = {}
    if getattr(scheduler.config, "use_dynamic_shifting", False):
        # Only shifts the values; pipelines compute it from the image size.
        arguments["mu"] = 1.0
    try:
        fresh = type(scheduler).from_config(scheduler.config)
        fresh.set_timesteps(num_steps, **arguments)
        return [float(t) for t in fresh.timesteps]
    except (TypeError, ValueError, AttributeError, NotImplementedError, ImportError, IndexError):
        # Schedulers of other pipelines want other arguments; not knowing is an answer.
        return None
