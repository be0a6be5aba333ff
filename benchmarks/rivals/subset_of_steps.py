"""The stock scheduler on some of its timesteps: the same solver, with fewer and larger steps.

Schedulers that list noise levels read there where a step goes. DDIM works it out from the number of steps, as if all
were equally long; during each step it is told a number that makes it work out the right one.
"""

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

SCHEDULERS = (
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
)


class _Length(int):
    """Stands for the number of steps where it is only divided by; the quotient is the length of one step."""

    def __rfloordiv__(self, other: Any) -> int:
        return int(self)


class Grid:
    """The steps of a run that ``set_timesteps`` has prepared.

    Args:
        scheduler: One of ``SCHEDULERS``, just after ``set_timesteps``.
    """

    def __init__(self, scheduler: Any) -> None:
        self.timesteps: torch.Tensor = scheduler.timesteps
        self.sigmas: torch.Tensor | None = getattr(scheduler, "sigmas", None)
        self._last_length = 0
        if self.sigmas is None:
            self._last_length = scheduler.config.num_train_timesteps // scheduler.num_inference_steps

    def __len__(self) -> int:
        return len(self.timesteps)

    def restrict(self, scheduler: Any, steps: Sequence[int]) -> None:
        """Let the scheduler take these steps only; ``len(grid)`` may follow them and is the end of the run."""
        inner = [step for step in steps if step < len(self)]
        scheduler.timesteps = self.timesteps[inner]
        if self.sigmas is None:
            return
        scheduler.num_inference_steps = len(inner)
        scheduler.sigmas = self.sigmas[list(steps)]

    @contextmanager
    def aimed(self, scheduler: Any, step: int, following: int) -> Iterator[None]:
        """A block for the step from ``step`` to ``following``, in which the scheduler knows how long it is."""
        if self.sigmas is not None:
            yield
            return
        end = int(self.timesteps[-1]) - self._last_length
        target = int(self.timesteps[following]) if following < len(self) else end
        length = int(self.timesteps[step]) - target
        before, scheduler.num_inference_steps = scheduler.num_inference_steps, _Length(length)
        try:
            yield
        finally:
            scheduler.num_inference_steps = before


def take_only(scheduler: Any, choose: Callable[[int], Sequence[int]]) -> None:
    """From now on every run goes through the steps that ``choose(number of steps)`` gives; ``Snapshot`` undoes it."""
    original_set, original_step = scheduler.set_timesteps, scheduler.step
    grid: Grid | None = None
    route: list[int] = []
    taken = 0

    @functools.wraps(original_set)  # pipelines look up in its signature whether it takes sigmas
    def set_timesteps(*args: Any, **kwargs: Any) -> Any:
        nonlocal grid, route, taken
        result = original_set(*args, **kwargs)
        grid, taken = Grid(scheduler), 0
        route = [*choose(len(grid)), len(grid)]
        grid.restrict(scheduler, route)
        return result

    @functools.wraps(original_step)
    def step(*args: Any, **kwargs: Any) -> Any:
        nonlocal taken
        assert grid is not None
        taken += 1
        with grid.aimed(scheduler, route[taken - 1], route[taken]):
            return original_step(*args, **kwargs)

    scheduler.set_timesteps, scheduler.step = set_timesteps, step


def twin(scheduler: Any) -> Any:
    """A scheduler that shares tensors, but not its history, and is free of what was patched onto the instance."""
    other = copy.copy(scheduler)
    for key, value in list(vars(other).items()):
        if isinstance(value, list):
            setattr(other, key, list(value))
    for key in ("set_timesteps", "step"):
        vars(other).pop(key, None)
    return other
