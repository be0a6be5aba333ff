"""Euler steps with fresh noise between them, drawn from the generator that the pipeline was called with.

diffusers' ``FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)`` takes the steps that consistency models need.
But most pipelines hand no generator to a flow scheduler's ``step``, so that noise would come from the global one, and
two runs with one seed would differ. This one is told the generator at the start of each run.
"""

from typing import Any

import diffusers

from dit_accel.runtime.observe import frames


class FlowMatchEulerDiscreteScheduler(diffusers.FlowMatchEulerDiscreteScheduler):
    """The stock scheduler, with a generator of its own. It keeps the stock name, under which it is saved."""

    noise_generator: Any = None

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
