"""Where on the way from noise to image each evaluation of a scheduler stands."""

from typing import Any

import torch

from dit_accel.passes.trajectory.config import NAME

STOCHASTIC = frozenset(
    ("LCMScheduler", "TCDScheduler", "FlowMatchLCMScheduler", "SCMScheduler", "CMStochasticIterativeScheduler")
)


def noise_levels(scheduler: Any) -> tuple[float, ...]:
    """The noise level of every denoiser evaluation of a run: sigma, or sigma / alpha; empty where it cannot be told.

    Read once a run; waits for the device where the scheduler keeps its numbers there (few do).
    """
    timesteps = getattr(scheduler, "timesteps", None)
    if timesteps is None or not len(timesteps):
        return ()
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is not None and len(sigmas) >= len(timesteps):
        return tuple(float(sigma) for sigma in torch.as_tensor(sigmas)[: len(timesteps)].tolist())
    kept = getattr(scheduler, "alphas_cumprod", None)
    if kept is None:
        return tuple(float(t) for t in torch.as_tensor(timesteps).tolist())
    kept = torch.as_tensor(kept).double()
    at = torch.as_tensor(timesteps).detach().cpu().double().clamp(0, len(kept) - 1).round().long()
    part = kept[at]
    return tuple(((1 - part) / part.clamp_min(1e-12)).sqrt().tolist())


def why_not(scheduler: Any) -> str | None:
    """Why evaluations of this scheduler cannot be answered from earlier ones; ``None``: they can."""
    name = type(scheduler).__name__
    asked = (getattr(scheduler, "config", None) or {}).get("stochastic_sampling", False)
    if asked or STOCHASTIC & {base.__name__ for base in type(scheduler).__mro__}:
        return (
            f"'{NAME}' cannot answer for earlier steps of {name}: it adds new noise at every step, so that no output "
            "says anything of the next one"
        )
    return None
