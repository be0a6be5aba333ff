"""A trajectory plan as a scheduler: the pipeline's loop visits the computed evaluations only.

For engines without a hook, and for loops whose every turn costs something besides the denoiser. The stock scheduler
runs inside, through all its steps; what it would have been given at the answered ones is combined from the guided
outputs, as the pass combines it inside the loop. Callbacks and ControlNet see the computed evaluations alone.
"""

import copy
import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch

from dit_accel.errors import AccelerationWarning, ConfigError, PlanMismatchError, UnsupportedModelError
from dit_accel.passes.trajectory.answers import Answers
from dit_accel.passes.trajectory.config import TrajectoryConfig
from dit_accel.passes.trajectory.history import History, are_alike
from dit_accel.passes.trajectory.levels import noise_levels, why_not


class TrajectoryScheduler:
    """Looks like the scheduler it is made of, with fewer timesteps.

    Args:
        config: The plan.
        scheduler: A stock scheduler; it is copied.
        denoisers: How many the pipeline has, each for a part of the run (Wan 2.2). Fitted weights know which is which.

    Raises:
        UnsupportedModelError: The scheduler adds new noise at every step.
        ConfigError: The plan's weights are for several guidance scales, or differ between guidance branches; or there
            are none, and several denoisers.
    """

    def __init__(self, config: TrajectoryConfig, scheduler: Any, denoisers: int = 1) -> None:
        reason = why_not(scheduler)
        if reason is not None:
            raise UnsupportedModelError(reason)
        if config.unconditional is not None:
            raise ConfigError(
                "the plan has weights of its own for each guidance branch, and a scheduler sees both as one: apply it "
                "to the pipeline, or fit it without"
            )
        if config.guidance:
            low, *_, high = config.guidance
            raise ConfigError(
                f"the plan has weights for guidance scales from {low:g} to {high:g}, and a scheduler does not see the "
                "scale of a run: give to_scheduler the plan for one, config.at_guidance(scale)"
            )
        if denoisers > 1 and config.weights is None:
            raise ConfigError(
                f"the plan is by theory, for {denoisers} denoisers, and a scheduler does not see which is called: it "
                "would answer one from outputs of the other. Apply it to the pipeline, or calibrate it"
            )
        if config.guarded:
            warnings.warn(
                "the plan's guard does not watch in the form of a scheduler: apply the plan to the pipeline for that",
                AccelerationWarning,
                stacklevel=2,
            )
        self._config, self._denoisers = config, denoisers
        self._inner = copy.deepcopy(scheduler)
        self._answers: Answers | None = None
        self._history: History | None = None
        self._visited = 0
        self.timesteps: torch.Tensor | None = None
        # Pipelines look up in the signatures what these take.
        self.set_timesteps = _like(self._inner.set_timesteps, self._set_timesteps)
        self.step = _like(self._inner.step, self._step)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_inner":
            raise AttributeError(name)
        return getattr(self._inner, name)

    def __len__(self) -> int:
        return len(self._inner)

    def __deepcopy__(self, memo: dict[int, Any]) -> "TrajectoryScheduler":
        return TrajectoryScheduler(self._config, self._inner, self._denoisers)

    @property
    def num_inference_steps(self) -> int | None:
        """Evaluations that are computed."""
        return None if self.timesteps is None else len(self.timesteps)

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Of a run from its beginning.

        Raises:
            PlanMismatchError: It is to begin later.
        """
        if begin_index:
            raise PlanMismatchError(
                "a trajectory as a scheduler begins at the beginning; for image-to-image, apply the plan to the "
                "pipeline"
            )
        if hasattr(self._inner, "set_begin_index"):
            self._inner.set_begin_index(0)

    def scale_model_input(self, sample: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As the stock scheduler does."""
        given: torch.Tensor = self._inner.scale_model_input(sample, *args, **kwargs)
        return given

    def _set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        self._inner.set_timesteps(*args, **kwargs)
        every = self._inner.timesteps
        if self._config.num_steps not in (None, len(every)):
            raise PlanMismatchError(
                f"the trajectory plan is for {self._config.num_steps} denoiser evaluations and the run has "
                f"{len(every)}"
            )
        self._answers = Answers(self._config, len(every), noise_levels(self._inner))
        self._history, self._visited = None, 0
        self.timesteps = every[list(self._answers.computed)]

    def _step(self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        answers, inner = self._answers, self._inner
        assert answers is not None, "set_timesteps comes first"
        step = answers.computed[self._visited]
        given = self._given(sample, step)
        if self._history is None:
            self._history = History(0, given)
            self._history.takes_latents = are_alike(given, model_output)
        self._history.keep(step, model_output)
        result = inner.step(model_output, inner.timesteps[step], sample, *args, **kwargs)
        self._visited += 1
        last = len(inner.timesteps)
        following = answers.computed[self._visited] if self._visited < len(answers.computed) else last
        for skipped in range(step + 1, following):
            latents = result[0] if isinstance(result, tuple) else result.prev_sample
            given = self._given(latents, skipped)
            weights, by = answers.fitted(skipped), answers.filter(skipped)
            if weights is None or not self._history.has(weights):
                weights, by = answers.by_theory(skipped, self._history.computed), None
            output = self._history.combine(weights, given, by)
            result = inner.step(output, inner.timesteps[skipped], latents, *args, **kwargs)
        return result

    def _given(self, latents: torch.Tensor, step: int) -> torch.Tensor:
        """What the denoiser would be given."""
        inner = self._inner
        if not hasattr(inner, "scale_model_input"):
            return latents
        given: torch.Tensor = inner.scale_model_input(latents, inner.timesteps[step])
        return given


def _like(method: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
    """Ours, with the signature of a scheduler's method."""

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        return ours(*args, **kwargs)

    return call
