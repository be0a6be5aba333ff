"""What the trainer needs to know of a kind of pipeline."""

import contextlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from diffusers import DiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from transformers import PreTrainedTokenizerBase

from dit_accel.training.autoencoders import Autoencoder, ImageAutoencoder
from dit_accel.training.objectives import Objective

TextInputs = dict[str, torch.Tensor]
"""What the text encoders of a kind are given, by name; each int64 [B, N]."""

Modules = Mapping[str, torch.nn.Module]
"""Trained modules by the name of their pipeline component: text encoders, then the denoiser."""

Tokenizers = Mapping[str, PreTrainedTokenizerBase]
"""Tokenizers by the name of their pipeline component."""


class PipelineKind(Protocol):
    """One pipeline class in training.

    Attributes:
        denoiser_name: The denoiser's component name, ``"transformer"`` or ``"unet"``.
        guidance_embedded: Whether the denoiser is told the guidance scale, so that guidance must be distilled into it.
        autoencoder: What is particular to its autoencoder.
    """

    denoiser_name: str
    guidance_embedded: bool
    autoencoder: Autoencoder

    def prepare_training(self, denoiser: torch.nn.Module) -> None:
        """Replace parts that are slow in training by ones that compute the same; what is saved does not change."""
        ...

    def showing(self, denoiser: torch.nn.Module, frames: torch.Tensor | None) -> AbstractContextManager[None]:
        """For the time being, tell the denoiser which frames of a video it is shown; ``None``: all, or an image."""
        ...

    def objective(self, latent_shape: torch.Size) -> Objective:
        """What the denoiser is to predict, for latents of the shape [C, h, w] or [C, F, h, w]."""
        ...

    def build_tokenizers(self, texts: Sequence[str]) -> dict[str, PreTrainedTokenizerBase]:
        """Make the tokenizers from the training captions."""
        ...

    def build_text_encoders(
        self, tokenizers: Tokenizers, configs: Mapping[str, dict[str, Any]]
    ) -> dict[str, torch.nn.Module]:
        """Make untrained text encoders; ``configs`` holds each one's fields by component name."""
        ...

    def build_denoiser(self, config: dict[str, Any]) -> torch.nn.Module:
        """Make an untrained denoiser whose last layer is zero: it predicts zero."""
        ...

    def tokenize(self, tokenizers: Tokenizers, texts: Sequence[str]) -> TextInputs:
        """Tokenize as the pipeline does; all texts to one length."""
        ...

    def encode(self, modules: Modules, text: TextInputs) -> dict[str, Any]:
        """Run the text encoders: keyword arguments for the denoiser."""
        ...

    def predict(
        self, denoiser: torch.nn.Module, noisy: torch.Tensor, timestep: torch.Tensor, condition: dict[str, Any],
        guidance: torch.Tensor | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """Run the denoiser.

        Args:
            denoiser: It.
            noisy: Noisy latents, [B, C, h, w] or [B, C, k, h, w].
            timestep: From the objective, [B].
            condition: From ``encode``.
            guidance: Guidance scales, float32 [B], where the denoiser is told; ``None``: 1, no guidance.

        Returns:
            The prediction, of the shape of ``noisy``.
        """
        ...

    def build_pipeline(self, vae: torch.nn.Module, modules: Modules, tokenizers: Tokenizers) -> DiffusionPipeline:
        """Put a pipeline together, ready to be called with a prompt; parts are shared, not copied."""
        ...


class ImageKind:
    """What the kinds that draw images have in common."""

    autoencoder: Autoencoder = ImageAutoencoder()

    def prepare_training(self, denoiser: torch.nn.Module) -> None:
        """Nothing by default."""

    def showing(self, denoiser: torch.nn.Module, frames: torch.Tensor | None) -> AbstractContextManager[None]:
        """An image has no frames."""
        return contextlib.nullcontext()


def use_plain_attention_on_cpu(denoiser: Any) -> None:
    """PyTorch's fused attention spends a quarter of a CPU step in its backward pass; plain matmuls are faster."""
    if denoiser.device.type == "cpu":
        denoiser.set_attn_processor(AttnProcessor())


def init_linear(model: torch.nn.Module) -> None:
    """Xavier-uniform linear layers with zero biases, as in the DiT code; diffusers leaves PyTorch's default."""
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
