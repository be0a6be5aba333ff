"""Latents from a role, in one to a few steps: Euler's, or with fresh noise between the steps."""

from itertools import pairwise

import torch

from dit_accel.training.distill.backbone import Condition
from dit_accel.training.distill.objectives.setting import Setting


def sample_latents(
    setting: Setting,
    role: str,
    noise: torch.Tensor,
    text: Condition,
    steps: int,
    *,
    renoise: bool,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Run a role from noise to data.

    Args:
        setting: Whose roles.
        role: Who predicts.
        noise: [B, ...].
        text: One row a sample.
        steps: Evaluations, at the pipeline's own times.
        renoise: Go on from the estimate of the data with fresh noise, as consistency models do.
        generator: Of that noise; needed for more than one such step.

    Returns:
        Latents of the data, float32 [B, ...].
    """
    sigmas = setting.backbone.sigmas(steps).to(noise.device)
    x = noise
    for now, then in pairwise(sigmas):
        v = setting.velocity(role, x, now.expand(len(x)), text)
        if renoise and then > 0:
            assert generator is not None, "fresh noise needs a generator"
            x = torch.lerp(x - now * v, setting.noise(len(x), generator), then)
        else:
            x = x + (then - now) * v
    return x
