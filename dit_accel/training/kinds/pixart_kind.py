"""PixArt-alpha: DiT blocks with cross-attention to T5, v-prediction, DPM-Solver++."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler, PixArtTransformer2DModel
from transformers import PreTrainedTokenizerBase

from dit_accel.embedded.pixart_pipeline import PixArtAlphaPipeline
from dit_accel.training.kinds.base import (
    ImageKind,
    Modules,
    TextInputs,
    Tokenizers,
    init_linear,
    use_plain_attention_on_cpu,
)
from dit_accel.training.objectives import NOISE_SCHEDULE, Objective, VPrediction
from dit_accel.training.text_encoders import build_t5
from dit_accel.training.tokenizer import build_tokenizer

# The cosine schedule's last log-SNRs are useless to the solver: diffusers' documentation of `lambda_min_clipped`.
LAMBDA_MIN_CLIPPED = -5.1


class PixArtKind(ImageKind):
    """``PixArtAlphaPipeline``; see ``PipelineKind``."""

    denoiser_name = "transformer"
    guidance_embedded = False

    def prepare_training(self, denoiser: torch.nn.Module) -> None:
        """Plain attention on the CPU."""
        use_plain_attention_on_cpu(denoiser)

    def objective(self, latent_shape: torch.Size) -> Objective:
        """Velocity on the squared-cosine schedule."""
        return VPrediction()

    def build_tokenizers(self, texts: Sequence[str]) -> dict[str, PreTrainedTokenizerBase]:
        """One T5 tokenizer."""
        return {"tokenizer": build_tokenizer(texts)}

    def build_text_encoders(
        self, tokenizers: Tokenizers, configs: Mapping[str, dict[str, Any]]
    ) -> dict[str, torch.nn.Module]:
        """One T5 encoder."""
        return {"text_encoder": build_t5(tokenizers["tokenizer"], configs["text_encoder"])}

    def build_denoiser(self, config: dict[str, Any]) -> PixArtTransformer2DModel:
        """Cross-attention outputs and the last layer start at zero, as in the paper's code."""
        model = PixArtTransformer2DModel(**config)
        init_linear(model)
        torch.nn.init.normal_(model.adaln_single.linear.weight, std=0.02)
        for block in model.transformer_blocks:
            torch.nn.init.zeros_(block.attn2.to_out[0].weight)
        torch.nn.init.zeros_(model.proj_out.weight)
        return model

    def tokenize(self, tokenizers: Tokenizers, texts: Sequence[str]) -> TextInputs:
        """Pad to the longest; the pipeline pads further, which the mask makes equal."""
        batch = tokenizers["tokenizer"](list(texts), padding="longest", pad_to_multiple_of=4, return_tensors="pt")
        return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}

    def encode(self, modules: Modules, text: TextInputs) -> dict[str, Any]:
        """Masked T5 states."""
        states = modules["text_encoder"](text["input_ids"], attention_mask=text["attention_mask"])[0]
        return {"encoder_hidden_states": states, "encoder_attention_mask": text["attention_mask"]}

    def predict(
        self, denoiser: torch.nn.Module, noisy: torch.Tensor, timestep: torch.Tensor, condition: dict[str, Any],
        guidance: torch.Tensor | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """See ``PipelineKind``."""
        prediction: torch.Tensor = denoiser(
            noisy,
            timestep=timestep,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            return_dict=False,
            **condition,
        )[0]
        return prediction

    def build_pipeline(self, vae: torch.nn.Module, modules: Modules, tokenizers: Tokenizers) -> DiffusionPipeline:
        """With DPM-Solver++ (2M)."""
        scheduler = DPMSolverMultistepScheduler(
            algorithm_type="dpmsolver++", solver_order=2, lambda_min_clipped=LAMBDA_MIN_CLIPPED, **NOISE_SCHEDULE
        )
        return PixArtAlphaPipeline(vae=vae, scheduler=scheduler, **modules, **tokenizers)
