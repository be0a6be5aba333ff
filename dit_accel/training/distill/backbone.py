"""A flow-matching pipeline as distillation sees it: a velocity field of latents, times in [0, 1], and text.

Latents are x_t = (1 - t) x_0 + t eps and the velocity is eps - x_0. What the pipeline calls its timesteps and how it
runs its guidance is converted here and nowhere else. Prompts become rows of a table of embeddings once, before
training.
"""

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from dit_accel.errors import ConfigError, UnsupportedModelError
from dit_accel.training.distill.guidance import Guidance
from dit_accel.training.kinds import KINDS, PipelineKind
from dit_accel.training.objectives import TRAIN_TIMESTEPS, FlowMatching

Condition = dict[str, torch.Tensor]
"""Keyword arguments of the denoiser that come from the text, one row a sample."""

_KIND_OF = {"FluxPipeline": "flux", "WanPipeline": "wan"}
_EMBEDDED = "dit_accel.embedded"  # these are trained with the kind's tokens, which their stock classes cannot know


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """The parts of a pipeline that distillation uses.

    Attributes:
        pipe: The pipeline; its denoiser is the one that is trained.
        kind: How the trainer calls it.
        latent_shape: Of one sample, without the batch.
        schedule: The time shift of its scheduler.
    """

    pipe: DiffusionPipeline
    kind: PipelineKind
    latent_shape: tuple[int, ...]
    schedule: FlowMatching

    @classmethod
    def of(
        cls,
        pipe: DiffusionPipeline,
        *,
        height_px: int | None = None,
        width_px: int | None = None,
        frames: int | None = None,
    ) -> "Backbone":
        """Look at a pipeline.

        Args:
            pipe: The teacher's.
            height_px: Of what is drawn in training; ``None``: as in a plain call of the pipeline. So are the others.
            width_px: Likewise.
            frames: Of a video.

        Raises:
            UnsupportedModelError: It is none of the flow-matching kinds that the trainer knows.
            ConfigError: Its scheduler has no time shift.
        """
        name = type(pipe).__name__
        if name not in _KIND_OF:
            raise UnsupportedModelError(
                f"step distillation needs a flow-matching pipeline ({', '.join(_KIND_OF)}), got {name}: for one that "
                "predicts noise, cut steps with a trajectory plan (dit-accel calibrate)"
            )
        kind = KINDS[_KIND_OF[name]]
        factor = getattr(pipe, "vae_scale_factor", None) or pipe.vae_scale_factor_spatial  # type: ignore[attr-defined]
        native = getattr(pipe, "default_sample_size", 16) * factor
        rows = (height_px or _call_default(pipe, "height") or native) // factor
        columns = (width_px or _call_default(pipe, "width") or native) // factor
        denoiser: Any = getattr(pipe, kind.denoiser_name)
        if name == "FluxPipeline":
            shape: tuple[int, ...] = (denoiser.config.in_channels // 4, rows, columns)
        else:
            pixels = frames or _call_default(pipe, "num_frames") or 1
            every: int = pipe.vae_scale_factor_temporal  # type: ignore[attr-defined]
            shape = (denoiser.config.in_channels, 1 + (pixels - 1) // every, rows, columns)
        return cls(pipe=pipe, kind=kind, latent_shape=shape, schedule=FlowMatching(_shift_of(pipe, shape)))

    @property
    def denoiser(self) -> torch.nn.Module:
        """The network."""
        found: torch.nn.Module = getattr(self.pipe, self.kind.denoiser_name)
        return found

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return next(self.denoiser.parameters()).device

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        """Embed prompts, as the pipeline does."""
        if not type(self.pipe).__module__.startswith(_EMBEDDED):
            return self._encode_stock(prompts)
        modules = {
            name: part for name, part in self.pipe.components.items() if name.startswith("text_encoder") and part
        }
        tokenizers = {
            name: part for name, part in self.pipe.components.items() if name.startswith("tokenizer") and part
        }
        ids = self.kind.tokenize(tokenizers, prompts)
        return self.kind.encode(modules, {name: rows.to(self.device) for name, rows in ids.items()})

    def _encode_stock(self, prompts: Sequence[str]) -> Condition:
        """Through a stock pipeline's own method."""
        pipe: Any = self.pipe
        more = {"max_sequence_length": _call_default(pipe, "max_sequence_length") or 512, "device": self.device}
        if self.kind is KINDS["flux"]:
            states, pooled, _ = pipe.encode_prompt(list(prompts), None, **more)
            return {"encoder_hidden_states": states, "pooled_projections": pooled}
        return {
            "encoder_hidden_states": pipe.encode_prompt(list(prompts), do_classifier_free_guidance=False, **more)[0]
        }

    def sigmas(self, steps: int) -> torch.Tensor:
        """Times of a run of so many Euler steps, from 1 to 0: the pipeline's own, float32 [T + 1]."""
        fraction = torch.linspace(1.0, 1.0 / steps, steps)
        return torch.cat([self.schedule.times(fraction) / TRAIN_TIMESTEPS, torch.zeros(1)])

    def velocity(
        self,
        denoiser: torch.nn.Module,
        x: torch.Tensor,
        t: torch.Tensor,
        condition: Condition,
        guidance: Guidance,
        empty: Condition | None = None,
    ) -> torch.Tensor:
        """Velocity from data to noise, float32 of the shape of ``x``.

        Args:
            denoiser: This backbone's network, or a copy of it.
            x: Latents, [B, ...].
            t: Times in [0, 1], [B].
            condition: Rows of the text table.
            guidance: Told to a network that takes it as an input; mixed from two calls otherwise.
            empty: Row of the empty prompt, where two calls are mixed.
        """
        timestep = t * TRAIN_TIMESTEPS
        if self.kind.guidance_embedded:
            scale = torch.full_like(t, guidance.scale)
            return self.kind.predict(denoiser, x, timestep, condition, scale).float()
        cond = self.kind.predict(denoiser, x, timestep, condition).float()
        if guidance.is_none:
            return cond
        assert empty is not None, "guidance of a network that is not told it needs the empty prompt"
        nothing = {name: rows.expand(len(x), *rows.shape[1:]) for name, rows in empty.items()}
        return guidance.mix(cond, self.kind.predict(denoiser, x, timestep, nothing).float())


def _shift_of(pipe: Any, shape: tuple[int, ...]) -> float:
    """The shift that the pipeline's own scheduler gives to times: fixed, or FLUX's by the number of tokens."""
    own: Any = pipe.scheduler
    if own.config.get("use_dynamic_shifting"):
        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        mu = calculate_shift(shape[-2] * shape[-1] // 4, *(own.config[name] for name in names))
        return mu if own.config.get("time_shift_type") == "linear" else math.exp(mu)
    shift = own.config.get("flow_shift", own.config.get("shift"))
    if shift is None:
        raise ConfigError(f"{type(own).__name__} has no time shift that a student could be trained with")
    return float(shift)


def _call_default(pipe: Any, name: str) -> int | None:
    parameter = inspect.signature(type(pipe).__call__).parameters.get(name)
    return parameter.default if parameter is not None and isinstance(parameter.default, int) else None


def per_sample(t: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """``t`` [B] shaped to multiply ``like`` [B, ...]."""
    return t.reshape(-1, *[1] * (like.dim() - 1))


def take(condition: Condition, rows: torch.Tensor) -> Condition:
    """Rows of a table of embeddings."""
    return {name: table[rows] for name, table in condition.items()}
