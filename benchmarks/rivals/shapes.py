"""Published shapes with random weights: wall-clock only, never fidelity. Small ones rehearse the code on a CPU.

What a threshold-based rival skips on random weights is not what it skips on trained ones: the reports say how much
work each saved, and a speed is to be read against that.
"""

from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from subjects import SHAPES

from dit_accel.errors import ConfigError, did_you_mean
from dit_accel.evaluation.reports.report import ReportSample, Settings
from dit_accel.families import resolve_family
from rivals.arena import ArenaOptions

SIZES = {
    "pixart-xl-256": ("pixart-xl-2", 256),
    "pixart-xl-512": ("pixart-xl-2", 512),
    "pixart-xl-1024": ("pixart-xl-2", 1024),
    "flux-256": ("flux-1-dev", 256),
    "flux-512": ("flux-1-dev", 512),
    "flux-1024": ("flux-1-dev", 1024),
    "pixart-rehearsal": ("pixart-rehearsal", 64),
    "flux-rehearsal": ("flux-rehearsal", 64),
}


class RandomPixArtPipeline(DiffusionPipeline):
    """The denoising loop of the stock PixArt pipeline, without text encoder and autoencoder."""

    def __init__(self, transformer: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)
        self.inputs: dict[str, Any] = {}

    @torch.no_grad()
    def __call__(self, num_inference_steps: int) -> torch.Tensor:
        """Denoise ``inputs['hidden_states']``, a batch of both guidance branches."""
        self.scheduler.set_timesteps(num_inference_steps, device=self.inputs["hidden_states"].device)
        latents = self.inputs["hidden_states"].chunk(2)[0]
        for t in self.scheduler.timesteps:
            named = {key: value for key, value in self.inputs.items() if key != "hidden_states"}
            both = torch.cat([latents, latents])
            output = self.transformer(both, **{**named, "timestep": t.expand(len(both))})[0]
            guided = output.chunk(2)[0][:, : latents.shape[1]]
            latents = self.scheduler.step(guided, t, latents, return_dict=False)[0].to(latents.dtype)
        return latents


class RandomFluxPipeline(DiffusionPipeline):
    """The denoising loop of the stock FLUX pipeline, without text encoders and autoencoder."""

    def __init__(self, transformer: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)
        self.inputs: dict[str, Any] = {}
        self.current_timestep_seen: Any = None

    @property
    def current_timestep(self) -> Any:
        """As the stock pipeline's."""
        return self.current_timestep_seen

    @torch.no_grad()
    def __call__(self, num_inference_steps: int) -> torch.Tensor:
        """Denoise ``inputs['hidden_states']``."""
        latents = self.inputs["hidden_states"]
        self.scheduler.set_timesteps(num_inference_steps, device=latents.device)
        for t in self.scheduler.timesteps:
            self.current_timestep_seen = t
            inputs = {**self.inputs, "hidden_states": latents}
            inputs["timestep"] = t.expand(len(latents)).to(latents.dtype) / 1000
            with self.transformer.cache_context("cond"):
                output = self.transformer(**inputs)[0]
            latents = self.scheduler.step(output, t, latents, return_dict=False)[0].to(latents.dtype)
        self.transformer._reset_stateful_cache()
        return latents


# cache-dit looks adapters up by how the name of a pipeline's class begins.
RandomPixArtPipeline.__name__ = "PixArtRandomPipeline"
RandomFluxPipeline.__name__ = "FluxRandomPipeline"


class ShapeArena:
    """A random denoiser and its usual scheduler.

    Args:
        name: One of ``SIZES``.
        steps: Of the plain run.
        options: Device and dtype are taken from it.

    Raises:
        ConfigError: There is no such shape.
    """

    has_pictures = False

    def __init__(self, name: str, steps: int, options: ArenaOptions) -> None:
        if name not in SIZES:
            raise ConfigError(f"no shape '{name}'.{did_you_mean(name, list(SIZES))} There are: {', '.join(SIZES)}.")
        shape_name, self.size_px = SIZES[name]
        shape = SHAPES[shape_name]
        self.options, self.num_inference_steps = options, steps
        self.label = f"{name}-{torch.device(options.device).type}-{steps}"
        self.samples = (ReportSample(prompt="", seed=0),)
        self.batch_size = self.num_timed = 1
        torch.manual_seed(0)
        with torch.device(options.device):
            denoiser = getattr(diffusers, shape.factory)(**shape.config)
        denoiser = denoiser.to(getattr(torch, options.dtype)).eval().requires_grad_(False)
        kind = RandomFluxPipeline if "Flux" in shape.factory else RandomPixArtPipeline
        self.pipe: Any = kind(denoiser, getattr(diffusers, shape.scheduler)())
        self.pipe.inputs = resolve_family(denoiser).sample_inputs(
            denoiser,
            height_px=self.size_px,
            width_px=self.size_px,
            batch=shape.guidance_batch,
            text_tokens=shape.text_tokens,
        )
        self.model = f"{name} (random weights)"

    def make(self, first: int, last: int, steps: int | None = None) -> torch.Tensor:
        made: torch.Tensor = self.pipe(steps or self.num_inference_steps)
        return made.float().cpu()

    def calibrate(self) -> None:
        self.pipe(self.num_inference_steps)

    def settings(self, made: torch.Tensor, repeats: int) -> Settings:
        return Settings(
            model=self.model,
            pipeline_class="denoising loop only",
            denoiser_class=type(self.pipe.transformer).__name__,
            scheduler=type(self.pipe.scheduler).__name__,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=None,
            height=self.size_px,
            width=self.size_px,
            batch_size=1,
            device=self.options.device,
            dtype=self.options.dtype,
            repeats=repeats,
            warmup=1,
            num_timed=1,
        )
