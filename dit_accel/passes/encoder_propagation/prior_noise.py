"""Prior-noise injection: a little of the initial noise is added to the latents before each late scheduler step.

Faster Diffusion (Li et al., arXiv 2312.09608, section 3.4): z_t + 0.003 z_T for t below half of the training's. The
paper knows variance-preserving latents only. Where the scheduler keeps latents at noise level sigma (Euler and
others), both are brought to that scale; in this, and in going by fractions of the run in place of timesteps, we depart
from the paper.
"""

from typing import Any

import torch

from dit_accel.passes.encoder_propagation.config import NAME, EncoderPropagationConfig
from dit_accel.runtime.call import Run
from dit_accel.runtime.denoiser import DenoiserRuntime


class PriorNoise:
    """Stands in front of the scheduler's steps.

    Args:
        runtime: Of the denoiser.
        config: The plan.

    Attributes:
        added: At how many steps of the current run it was added.
    """

    def __init__(self, runtime: DenoiserRuntime, config: EncoderPropagationConfig) -> None:
        self.runtime = runtime
        self.config = config
        self.added = 0
        self._run: Run | None = None
        self._noise: torch.Tensor | None = None

    def begin(self, run: Run) -> None:
        """A run begins."""
        self._run, self._noise, self.added = run, None, 0
        if initial_scale(run.scheduler) is None:
            self._run = None
            self.runtime.warn(
                f"'{NAME}' adds no prior noise: what it would mean to the latents of {type(run.scheduler).__name__} "
                "(a flow) is not defined"
            )

    def __call__(self, step: int, sample: Any) -> Any:
        """The latents that the scheduler is given at a step; those of the first one are the initial noise."""
        run = self._run
        if run is None or not isinstance(sample, torch.Tensor):
            return sample
        if step == 0 and self._noise is None:
            self._noise = sample.detach().clone()
        noise = self._noise
        if noise is None or noise.shape != sample.shape or step < self.config.prior_noise_from * run.num_steps:
            return sample
        scale = initial_scale(run.scheduler)
        assert scale is not None
        here = (1 + run.sigmas[step] ** 2) ** 0.5 if scale > 1 and step < len(run.sigmas) else 1.0
        self.added += 1
        return sample + self.config.prior_noise * here / scale * noise


def initial_scale(scheduler: Any) -> float | None:
    """By how much unit noise is scaled to be a scheduler's first latents; ``None`` for flows: undefined."""
    settings = getattr(scheduler, "config", {})
    if settings.get("use_flow_sigmas") or settings.get("prediction_type") == "flow_prediction":
        return None
    scale = getattr(scheduler, "init_noise_sigma", None)
    if scale is None or (float(scale) <= 1 and not hasattr(scheduler, "alphas_cumprod")):
        return None
    return float(scale)
