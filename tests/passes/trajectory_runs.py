"""What the tests of trajectories share: short runs of tiny pipelines, weights written by hand, many schedulers."""

from typing import Any

import diffusers
import torch
from tiny import tiny_call

from dit_accel import TrajectoryConfig, summary
from dit_accel.families.pipeline import find_denoisers

STEPS = 8
HALF = TrajectoryConfig(computed=(True, False) * 4)


def run(pipe: Any, name: str, **more: Any) -> torch.Tensor:
    first = pipe(**tiny_call(name, **{"num_inference_steps": STEPS, **more}))[0]
    return first if isinstance(first, torch.Tensor) else torch.stack(list(first))


def effect(pipe: Any, denoiser: int = 0) -> Any:
    return summary(pipe).denoisers[denoiser].effects["trajectory"]


def counted(pipe: Any) -> list[int]:
    """Counts what the first denoiser's first block really computes."""
    calls = [0]

    def count(*_: Any) -> None:
        calls[0] += 1

    denoiser = find_denoisers(pipe)[0][1]
    layers = [module for module in denoiser.modules() if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)]
    layers[0].register_forward_hook(count)
    return calls


def table(rows: dict[int, dict[int, float]], steps: int = STEPS) -> torch.Tensor:
    weights = torch.zeros(steps, steps + 2, dtype=torch.float64)
    for step, row in rows.items():
        for place, weight in row.items():
            weights[step, place] = weight
    return weights


SCHEDULERS = {
    "ddim": (diffusers.DDIMScheduler, {}),
    "ddpm": (diffusers.DDPMScheduler, {}),
    "dpm++2m": (diffusers.DPMSolverMultistepScheduler, {}),
    "sde-dpm++2m": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "euler-a": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "unipc": (diffusers.UniPCMultistepScheduler, {}),
    "pndm": (diffusers.PNDMScheduler, {"skip_prk_steps": True}),
    "heun": (diffusers.HeunDiscreteScheduler, {}),
}
