"""Which step and which guidance call a denoiser is in, for rivals that we implement ourselves or lend a hand to."""

import functools
from collections.abc import Callable
from typing import Any

from torch import nn

from dit_accel.families import resolve_family
from dit_accel.families.pipeline import find_denoisers


class Trajectory:
    """Counts from each start of the scheduler; patches two instances, which ``Snapshot`` undoes.

    Args:
        pipe: A pipeline with a single denoiser.
        on_start: Called at each start.

    Attributes:
        denoiser: Of the pipeline.
        calls: Denoiser calls since the start, the current one included.
    """

    def __init__(self, pipe: Any, on_start: Callable[[], None] = lambda: None) -> None:
        self.pipe = pipe
        self.denoiser: nn.Module = only_denoiser(pipe)
        self.calls = 0
        self._two_calls = resolve_family(self.denoiser).guidance == "two_calls"
        original, scheduler = pipe.scheduler.set_timesteps, pipe.scheduler

        @functools.wraps(original)  # pipelines look up in its signature whether it takes sigmas
        def set_timesteps(*args: Any, **kwargs: Any) -> Any:
            self.calls = 0
            on_start()
            return original(*args, **kwargs)

        scheduler.set_timesteps = set_timesteps

    def wrap(self, around: Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]) -> None:
        """Put ``around(forward, args, kwargs)`` in place of the denoiser's ``forward``, counting its calls."""
        forward = self.denoiser.forward

        @functools.wraps(forward)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return around(forward, args, kwargs)

        self.denoiser.forward = counted  # type: ignore[method-assign]

    @property
    def calls_per_step(self) -> int:
        """Two where guidance takes a call of its own."""
        guided = getattr(self.pipe, "do_classifier_free_guidance", False)
        return 2 if self._two_calls and guided else 1

    @property
    def branch(self) -> int:
        """0, or 1 in the second call of a step."""
        return (self.calls - 1) % self.calls_per_step

    @property
    def step(self) -> int:
        """Denoiser evaluations of this branch before the current one."""
        return (self.calls - 1) // self.calls_per_step

    @property
    def num_steps(self) -> int:
        """Of the run; twice the scheduler's for solvers that evaluate twice a step."""
        return len(self.pipe.scheduler.timesteps)


def only_denoiser(pipe: Any) -> nn.Module:
    """The denoiser of a pipeline that has one.

    Raises:
        ValueError: It has two.
    """
    found = find_denoisers(pipe)
    if len(found) != 1:
        raise ValueError(f"{type(pipe).__name__} has {len(found)} denoisers; this rival is made for one")
    return found[0][1]
