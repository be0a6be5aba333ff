"""Stable Diffusion 1's kind: a UNet with cross-attention to CLIP, v-prediction, DDIM."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from transformers import PreTrainedTokenizerBase

from dit_accel.training.clip_tokenizer import build_clip_tokenizer
from dit_accel.training.kinds.base import ImageKind, Modules, TextInputs, Tokenizers, use_plain_attention_on_cpu
from dit_accel.training.objectives import NOISE_SCHEDULE, Objective, VPrediction
from dit_accel.training.text_encoders import build_clip

MAX_TOKENS = 16


class StableDiffusionKind(ImageKind):
    """``StableDiffusionPipeline``; see ``PipelineKind``. CLIP sees no padding mask, in training as in the pipeline."""

    denoiser_name = "unet"
    guidance_embedded = False

    def prepare_training(self, denoiser: torch.nn.Module) -> None:
        """Plain attention on the CPU."""
        use_plain_attention_on_cpu(denoiser)

    def objective(self, latent_shape: torch.Size) -> Objective:
        """Velocity on the squared-cosine schedule."""
        return VPrediction()

    def build_tokenizers(self, texts: Sequence[str]) -> dict[str, PreTrainedTokenizerBase]:
        """One CLIP tokenizer of 16 tokens: BOS, at most 14 pieces, EOS."""
        return {"tokenizer": build_clip_tokenizer(texts, max_length=MAX_TOKENS)}

    def build_text_encoders(
        self, tokenizers: Tokenizers, configs: Mapping[str, dict[str, Any]]
    ) -> dict[str, torch.nn.Module]:
        """One CLIP text encoder."""
        return {"text_encoder": build_clip(tokenizers["tokenizer"], configs["text_encoder"])}

    def build_denoiser(self, config: dict[str, Any]) -> UNet2DConditionModel:
        """Second convolutions of residual blocks, outputs of transformers and the last layer start at zero.

        So does the pooled caption: without it, a UNet of this size learns hundreds of images very slowly.
        """
        model = UNet2DConditionModel(**config)
        for name, module in model.named_modules():
            if name.rpartition(".")[2] in ("conv2", "proj_out", "conv_out"):
                torch.nn.init.zeros_(module.weight)
                torch.nn.init.zeros_(module.bias)
        if model.config.addition_embed_type == "text":
            torch.nn.init.zeros_(model.add_embedding.norm2.weight)
        return model

    def tokenize(self, tokenizers: Tokenizers, texts: Sequence[str]) -> TextInputs:
        """Pad to the full length, as the pipeline does."""
        batch = tokenizers["tokenizer"](list(texts), padding="max_length", truncation=True, return_tensors="pt")
        return {"input_ids": batch.input_ids}

    def encode(self, modules: Modules, text: TextInputs) -> dict[str, Any]:
        """The last states of CLIP."""
        return {"encoder_hidden_states": modules["text_encoder"](text["input_ids"])[0]}

    def predict(
        self, denoiser: torch.nn.Module, noisy: torch.Tensor, timestep: torch.Tensor, condition: dict[str, Any],
        guidance: torch.Tensor | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """See ``PipelineKind``."""
        prediction: torch.Tensor = denoiser(noisy, timestep, return_dict=False, **condition)[0]
        return prediction

    def build_pipeline(self, vae: torch.nn.Module, modules: Modules, tokenizers: Tokenizers) -> DiffusionPipeline:
        """With DDIM; PNDM and others are made from its config."""
        scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1, **NOISE_SCHEDULE)
        return StableDiffusionPipeline(
            vae=vae, scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
            **modules, **tokenizers,
        )  # fmt: skip
