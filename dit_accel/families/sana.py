"""Sana: linear self-attention, softmax cross-attention, convolutional feed-forward, 32× autoencoder (2410.10629)."""

from typing import Any

import torch
from torch import nn

from dit_accel.families.base import Family, Stack, config_of
from dit_accel.families.common import ADALN_CROSS_ATTENTIONS, FF, norm, square_patch, text
from dit_accel.families.sample import Sample


def _inputs(model: nn.Module, sample: Sample) -> dict[str, Any]:
    config = config_of(model)
    inputs: dict[str, Any] = {
        "hidden_states": sample.latent(config["in_channels"]),
        "encoder_hidden_states": sample.text(config["caption_channels"]),
        "timestep": sample.timestep(),
        "encoder_attention_mask": sample.mask(),
        "return_dict": False,
    }
    if config["guidance_embeds"]:
        inputs["guidance"] = torch.full((sample.batch,), 4.5, device=sample.device, dtype=sample.dtype)
    return inputs


SANA = Family(
    name="sana",
    model_classes=("SanaTransformer2DModel",),
    stacks=(
        Stack(
            path="transformer_blocks",
            alias="blocks",
            streams=("hidden_states",),
            sites=(*ADALN_CROSS_ATTENTIONS, norm("norm2", "ff", full_length=True), FF),
        ),
    ),
    extras=(
        text("caption_projection"),
        text("caption_norm"),
    ),
    guidance="batched",
    conditioning=("encoder_hidden_states",),
    text="cross",
    latent_layout="BCHW",
    patch=square_patch,
    vae_scale=(1, 32),
    text_tokens=300,
    make_inputs=_inputs,
    notes=("Self-attention is linear in the number of tokens: attention sparsity has nothing to gain there.",),
)
