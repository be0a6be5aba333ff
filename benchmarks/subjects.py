"""What the benchmarks run: an embedded pipeline, or the denoiser of a large model with random weights."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import torch

from dit_accel.families import resolve_family
from dit_accel.pipelines.generation import GenerationSettings, call_arguments
from dit_accel.pipelines.loading import load_pipeline


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One copy of what is measured.

    Attributes:
        target: What is accelerated: a pipeline, or a bare denoiser.
        scheduler: The scheduler of a bare denoiser, else ``None``.
        denoiser: The module whose calls are timed.
        run: One whole run; returns the result, float32 on the CPU.
    """

    target: Any
    scheduler: Any
    denoiser: torch.nn.Module
    run: Callable[[], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A published model by its config, for timing with random weights.

    Attributes:
        factory: Diffusers class.
        config: Its arguments.
        scheduler: Class of its usual scheduler.
        guidance_batch: 2 where guidance runs as one batch of two.
        text_tokens: Length of the prompt.
    """

    factory: str
    config: dict[str, Any]
    scheduler: str
    guidance_batch: int
    text_tokens: int


SHAPES = {
    "pixart-xl-2": Shape(
        factory="PixArtTransformer2DModel",
        config={"sample_size": 64, "caption_channels": 4096, "cross_attention_dim": 1152},
        scheduler="DPMSolverMultistepScheduler",
        guidance_batch=2,
        text_tokens=120,
    ),
    "flux-1-dev": Shape(
        factory="FluxTransformer2DModel",
        config={"guidance_embeds": True},
        scheduler="FlowMatchEulerDiscreteScheduler",
        guidance_batch=1,
        text_tokens=512,
    ),
    # Small enough to rehearse the scripts on a CPU.
    "flux-rehearsal": Shape(
        factory="FluxTransformer2DModel",
        config={
            "guidance_embeds": True,
            "num_layers": 2,
            "num_single_layers": 3,
            "num_attention_heads": 4,
            "attention_head_dim": 32,
            "joint_attention_dim": 64,
            "pooled_projection_dim": 32,
            "axes_dims_rope": (8, 12, 12),
        },
        scheduler="FlowMatchEulerDiscreteScheduler",
        guidance_batch=1,
        text_tokens=24,
    ),
    "pixart-rehearsal": Shape(
        factory="PixArtTransformer2DModel",
        config={
            "sample_size": 16,
            "num_layers": 4,
            "num_attention_heads": 4,
            "attention_head_dim": 16,
            "caption_channels": 32,
            "cross_attention_dim": 64,
        },
        scheduler="DPMSolverMultistepScheduler",
        guidance_batch=2,
        text_tokens=24,
    ),
}


def shared_copy(thing: Any, modules: Sequence[torch.nn.Module]) -> Any:
    """A deep copy of ``thing`` with the same parameters and buffers of ``modules``: patched apart, stored once.

    One copy of the weights for all variants also means the same memory pages, which on a CPU are worth some per cent.
    """
    tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    return copy.deepcopy(thing, {id(tensor): tensor for tensor in tensors})


class EmbeddedSource:
    """Makes equal copies of an embedded or local pipeline, each with a run over the same prompts and seeds."""

    def __init__(self, model: str, prompts: Sequence[str], steps: int, device: str, dtype: torch.dtype) -> None:
        self.model = model
        self.prompts = list(prompts)
        self.settings = GenerationSettings(num_inference_steps=steps)
        self.pipe = load_pipeline(model, device=device, dtype=dtype)
        self.pipe.set_progress_bar_config(disable=True)

    def subject(self) -> Subject:
        """A copy that shares only weights with the others, so that each can be compiled and patched by itself."""
        parts = [part for part in self.pipe.components.values() if isinstance(part, torch.nn.Module)]
        pipe = shared_copy(self.pipe, parts)
        pipe.set_progress_bar_config(disable=True)
        denoiser = pipe.transformer if hasattr(pipe, "transformer") else pipe.unet

        def run() -> torch.Tensor:
            seeds = [torch.Generator("cpu").manual_seed(seed) for seed in range(len(self.prompts))]
            arguments = call_arguments(pipe, self.settings)
            images = pipe(self.prompts, generator=seeds, output_type="pt", **arguments).images
            return images.float().cpu()

        return Subject(target=pipe, scheduler=None, denoiser=denoiser, run=run)


class ShapeSource:
    """A denoiser with random weights, driven by its scheduler without text encoder and autoencoder."""

    def __init__(self, name: str, size_px: int, steps: int, device: str, dtype: torch.dtype) -> None:
        self.shape = SHAPES[name]
        self.model = f"{name} (random weights), {size_px} px"
        self.size_px, self.steps, self.device, self.dtype = size_px, steps, device, dtype
        torch.manual_seed(0)
        with torch.device(device):
            factory = getattr(diffusers, self.shape.factory)
            self.denoiser = factory(**self.shape.config).to(dtype).eval().requires_grad_(False)
        self.inputs = resolve_family(self.denoiser).sample_inputs(
            self.denoiser,
            height_px=size_px,
            width_px=size_px,
            batch=self.shape.guidance_batch,
            text_tokens=self.shape.text_tokens,
        )

    def subject(self) -> Subject:
        """The denoiser, structure copied and weights shared, with a scheduler of its own."""
        denoiser = shared_copy(self.denoiser, [self.denoiser])
        scheduler = getattr(diffusers, self.shape.scheduler)()
        latents_name = next(iter(self.inputs))

        @torch.no_grad()
        def run() -> torch.Tensor:
            scheduler.set_timesteps(self.steps, device=self.device)
            latents = self.inputs[latents_name].clone()
            for t in scheduler.timesteps:
                inputs = {**self.inputs, latents_name: latents}
                output = denoiser(**inputs)[0]
                output = output[:, : latents.shape[1]] if latents.dim() == 4 else output
                latents = scheduler.step(output, t, latents, return_dict=False)[0].to(self.dtype)
            return latents.float().cpu()

        return Subject(target=denoiser, scheduler=scheduler, denoiser=denoiser, run=run)
