"""FLUX's kind: double and single blocks, T5 and pooled CLIP, flow matching, the guidance scale as an input."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from transformers import PreTrainedTokenizerBase

from dit_accel.embedded.flux_pipeline import MAX_SEQUENCE_LENGTH, FluxPipeline
from dit_accel.training.clip_tokenizer import build_clip_tokenizer
from dit_accel.training.kinds.base import ImageKind, Modules, TextInputs, Tokenizers, init_linear
from dit_accel.training.objectives import TRAIN_TIMESTEPS, FlowMatching, Objective, flux_shift
from dit_accel.training.text_encoders import build_clip, build_t5
from dit_accel.training.tokenizer import build_tokenizer


class FluxKind(ImageKind):
    """``FluxPipeline``; see ``PipelineKind``. Neither text encoder sees a mask, in training as in the pipeline."""

    denoiser_name = "transformer"
    guidance_embedded = True

    def objective(self, latent_shape: torch.Size) -> Objective:
        """Flow matching, shifted as the pipeline's scheduler shifts for so many tokens of 2 x 2 latents."""
        return FlowMatching(flux_shift(latent_shape[-2] * latent_shape[-1] // 4))

    def build_tokenizers(self, texts: Sequence[str]) -> dict[str, PreTrainedTokenizerBase]:
        """CLIP's first, T5's second."""
        return {
            "tokenizer": build_clip_tokenizer(texts, max_length=MAX_SEQUENCE_LENGTH),
            "tokenizer_2": build_tokenizer(texts),
        }

    def build_text_encoders(
        self, tokenizers: Tokenizers, configs: Mapping[str, dict[str, Any]]
    ) -> dict[str, torch.nn.Module]:
        """CLIP first, T5 second."""
        return {
            "text_encoder": build_clip(tokenizers["tokenizer"], configs["text_encoder"]),
            "text_encoder_2": build_t5(tokenizers["tokenizer_2"], configs["text_encoder_2"]),
        }

    def build_denoiser(self, config: dict[str, Any]) -> FluxTransformer2DModel:
        """Modulations start small and the last layer at zero, after DiT."""
        model = FluxTransformer2DModel(**config)
        init_linear(model)
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and ".norm" in name:
                torch.nn.init.normal_(module.weight, std=0.02)
        torch.nn.init.zeros_(model.proj_out.weight)
        return model

    def tokenize(self, tokenizers: Tokenizers, texts: Sequence[str]) -> TextInputs:
        """Pad both to the full length, as the pipeline does."""
        padding = {"padding": "max_length", "max_length": MAX_SEQUENCE_LENGTH, "truncation": True}
        clip = tokenizers["tokenizer"](list(texts), return_tensors="pt", **padding)
        t5 = tokenizers["tokenizer_2"](list(texts), return_tensors="pt", **padding)
        return {"clip_ids": clip.input_ids, "t5_ids": t5.input_ids}

    def encode(self, modules: Modules, text: TextInputs) -> dict[str, Any]:
        """T5's states and CLIP's pooled one."""
        return {
            "encoder_hidden_states": modules["text_encoder_2"](text["t5_ids"])[0],
            "pooled_projections": modules["text_encoder"](text["clip_ids"]).pooler_output,
        }

    def predict(
        self, denoiser: torch.nn.Module, noisy: torch.Tensor, timestep: torch.Tensor, condition: dict[str, Any],
        guidance: torch.Tensor | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """See ``PipelineKind``; packs 2 x 2 latents into a token as the pipeline does."""
        b, c, h, w = noisy.shape
        states = condition["encoder_hidden_states"]
        packed: torch.Tensor = denoiser(
            FluxPipeline._pack_latents(noisy, b, c, h, w),
            timestep=timestep / TRAIN_TIMESTEPS,
            guidance=torch.ones_like(timestep) if guidance is None else guidance,
            img_ids=image_ids(h // 2, w // 2, noisy),
            txt_ids=torch.zeros(states.shape[1], 3, device=noisy.device, dtype=noisy.dtype),
            return_dict=False,
            **condition,
        )[0]
        return packed.view(b, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(b, c, h, w)

    def build_pipeline(self, vae: torch.nn.Module, modules: Modules, tokenizers: Tokenizers) -> DiffusionPipeline:
        """With Euler steps and FLUX's dynamic shift."""
        scheduler = FlowMatchEulerDiscreteScheduler(
            num_train_timesteps=TRAIN_TIMESTEPS, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15,
            base_image_seq_len=256, max_image_seq_len=4096, shift=3.0,
        )  # fmt: skip
        cast(Any, vae).register_to_config(shift_factor=0.0)  # emoji-pixart's has none
        return FluxPipeline(vae=vae, scheduler=scheduler, **modules, **tokenizers)


def image_ids(rows: int, columns: int, like: torch.Tensor) -> torch.Tensor:
    """Row and column of each image token, as the pipeline numbers them, but made on the device of ``like``: [N, 3]."""
    y = torch.arange(rows, device=like.device, dtype=like.dtype)[:, None].expand(rows, columns)
    x = torch.arange(columns, device=like.device, dtype=like.dtype)[None].expand(rows, columns)
    return torch.stack([torch.zeros_like(y), y, x], dim=-1).view(rows * columns, 3)
