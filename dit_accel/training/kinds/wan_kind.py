"""Wan's kind: a video transformer with rotary positions in time and space, UMT5, flow matching.

Lipman et al. 2023 (2210.02747); the straight path and the shifted timesteps are those of Esser et al. 2024
(2403.03206), as in Wan.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, UniPCMultistepScheduler, WanTransformer3DModel
from transformers import PreTrainedTokenizerBase

from dit_accel.embedded.wan_pipeline import MAX_SEQUENCE_LENGTH, WanPipeline
from dit_accel.training.autoencoders import Autoencoder, FrameAutoencoder
from dit_accel.training.kinds.base import Modules, TextInputs, Tokenizers, init_linear
from dit_accel.training.objectives import TRAIN_TIMESTEPS, FlowMatching, Objective
from dit_accel.training.text_encoders import build_umt5
from dit_accel.training.tokenizer import build_tokenizer
from dit_accel.training.wan_attention import ChosenFramesRope, MatmulAttention

FLOW_SHIFT = 3.0


class WanKind:
    """``WanPipeline``; see ``PipelineKind``. Padding is zero and is not masked, in training as in the pipeline."""

    denoiser_name = "transformer"
    guidance_embedded = False
    autoencoder: Autoencoder = FrameAutoencoder()

    def prepare_training(self, denoiser: torch.nn.Module) -> None:
        """Some frames at a time; plain attention on the CPU."""
        assert isinstance(denoiser, WanTransformer3DModel)
        if not isinstance(denoiser.rope, ChosenFramesRope):
            denoiser.rope = ChosenFramesRope(denoiser.rope)
        if denoiser.device.type == "cpu":
            for block in denoiser.blocks:
                block.attn1.processor = block.attn2.processor = MatmulAttention()

    @contextlib.contextmanager
    def showing(self, denoiser: torch.nn.Module, frames: torch.Tensor | None) -> Iterator[None]:
        """Give the tokens the positions of these frames."""
        rope: Any = denoiser.rope
        rope.chosen = frames
        try:
            yield
        finally:
            rope.chosen = None

    def objective(self, latent_shape: torch.Size) -> Objective:
        """Flow matching with a fixed shift."""
        return FlowMatching(FLOW_SHIFT)

    def build_tokenizers(self, texts: Sequence[str]) -> dict[str, PreTrainedTokenizerBase]:
        """One T5 tokenizer."""
        return {"tokenizer": build_tokenizer(texts, max_length=MAX_SEQUENCE_LENGTH)}

    def build_text_encoders(
        self, tokenizers: Tokenizers, configs: Mapping[str, dict[str, Any]]
    ) -> dict[str, torch.nn.Module]:
        """One UMT5 encoder."""
        return {"text_encoder": build_umt5(tokenizers["tokenizer"], configs["text_encoder"])}

    def build_denoiser(self, config: dict[str, Any]) -> WanTransformer3DModel:
        """Cross-attention outputs and the last layer start at zero, as in PixArt."""
        model = WanTransformer3DModel(**config)
        init_linear(model)
        torch.nn.init.xavier_uniform_(model.patch_embedding.weight.view(model.patch_embedding.out_channels, -1))
        torch.nn.init.normal_(model.condition_embedder.time_proj.weight, std=0.02)
        for block in model.blocks:
            torch.nn.init.zeros_(block.attn2.to_out[0].weight)
        torch.nn.init.zeros_(model.proj_out.weight)
        return model

    def tokenize(self, tokenizers: Tokenizers, texts: Sequence[str]) -> TextInputs:
        """Pad to the full length, as the pipeline does."""
        batch = tokenizers["tokenizer"](
            list(texts), padding="max_length", max_length=MAX_SEQUENCE_LENGTH, truncation=True, return_tensors="pt"
        )
        return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}

    def encode(self, modules: Modules, text: TextInputs) -> dict[str, Any]:
        """UMT5's states, zero where there is padding."""
        states = modules["text_encoder"](text["input_ids"], attention_mask=text["attention_mask"])[0]
        return {"encoder_hidden_states": states * text["attention_mask"][..., None]}

    def predict(
        self, denoiser: torch.nn.Module, noisy: torch.Tensor, timestep: torch.Tensor, condition: dict[str, Any],
        guidance: torch.Tensor | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """See ``PipelineKind``; videos [B, C, k, h, w]."""
        prediction: torch.Tensor = denoiser(noisy, timestep, return_dict=False, **condition)[0]
        return prediction

    def build_pipeline(self, vae: torch.nn.Module, modules: Modules, tokenizers: Tokenizers) -> DiffusionPipeline:
        """With UniPC on the shifted times."""
        scheduler = UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=FLOW_SHIFT,
            num_train_timesteps=TRAIN_TIMESTEPS,
        )  # fmt: skip
        return WanPipeline(vae=vae, scheduler=scheduler, **modules, **tokenizers)
