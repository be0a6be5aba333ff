"""Euler steps at the times of the training, with fresh noise between them from the pipeline call's own generator.

diffusers' ``FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)`` takes the steps that consistency models need.
But most pipelines hand no generator to a flow scheduler's ``step``, so that noise would come from the global one, and
two runs with one seed would differ. This one is told the generator at the start of each run.

And a pipeline that gives no sigmas (Wan's) would get times that end near 0, where there is nothing left to do: four
shifted steps were 1, 0.86, 0.6, 0.009. A student was trained where FLUX's pipeline goes: before the shift at 1,
1 - 1/n, ..., 1/n.
"""

from typing import Any

import diffusers
import numpy as np

from dit_accel.runtime.observe import frames


class FlowMatchEulerDiscreteScheduler(diffusers.FlowMatchEulerDiscreteScheduler):
    """The stock one with a student's times and a generator. It keeps the stock name, under which it is saved."""

    noise_generator: Any = None

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
        timesteps: Any = None,
    ) -> None:
        """As the stock one, but for the times where the pipeline names none."""
        if sigmas is None and timesteps is None and num_inference_steps is not None:
            sigmas = np.linspace(1.0, 1.0 / num_inference_steps, num_inference_steps)
        super().set_timesteps(num_inference_steps, device=device, sigmas=sigmas, mu=mu, timesteps=timesteps)

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """As the stock one, but for the noise."""
        if kwargs.get("generator") is None:
            kwargs["generator"] = self.noise_generator
        return super().step(*args, **kwargs)


def generator_of(owner: Any) -> Any:
    """The generator, or generators, that the running call of a pipeline was given; ``None``: it has none.

    It is an argument that no pipeline keeps, so it is looked up in the frame of the call, once a run.
    """
    for frame in frames():
        if frame.f_code.co_name == "__call__" and frame.f_locals.get("self") is owner:
            return frame.f_locals.get("generator")
    return None
