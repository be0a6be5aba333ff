"""Small runs of the embedded pipelines, latents only, so that nothing but the denoiser is measured."""

from typing import Any

import torch

SMALL: dict[str, dict[str, Any]] = {
    "emoji-pixart": {"use_resolution_binning": False},
    "emoji-flux": {},
    "emoji-wan": {"num_frames": 5, "height": 32, "width": 32},
}


def draw(pipe: Any, name: str, *, steps: int = 8, seed: int = 0, prompt: Any = "a red apple", **more: Any) -> Any:
    """Final latents, [B, ...]."""
    settings = {"output_type": "latent", "num_inference_steps": steps, **SMALL[name], **more}
    return pipe(prompt, generator=torch.Generator().manual_seed(seed), **settings)[0]
