"""Stable Video Diffusion: a UNet that mixes space and time in its resnets and transformers (2311.15127)."""

from typing import Any

import torch
from torch import nn

from dit_accel.families.base import Family, config_of
from dit_accel.families.sample import Sample
from dit_accel.families.unet import unet_patch
from dit_accel.families.unet_layout import unet_layout


def _inputs(model: nn.Module, sample: Sample) -> dict[str, Any]:
    config = config_of(model)
    # Frame rate, motion and noise of the picture, each embedded in so many channels.
    numbers = config["projection_class_embeddings_input_dim"] // config["addition_time_embed_dim"]
    latents = (sample.batch, sample.frames, config["in_channels"], sample.height, sample.width)
    return {
        "sample": sample.randn(*latents),
        "timestep": sample.timestep(),
        "encoder_hidden_states": sample.text(config["cross_attention_dim"]),
        "added_time_ids": torch.ones(sample.batch, numbers, device=sample.device, dtype=sample.dtype),
        "return_dict": False,
    }


SVD = Family(
    name="svd",
    model_classes=("UNetSpatioTemporalConditionModel",),
    guidance="batched",
    conditioning=("encoder_hidden_states", "added_time_ids"),
    # One token: the picture as CLIP sees it. The picture's own latents are channels of the noisy ones.
    text="cross",
    latent_layout="BFCHW",
    patch=unet_patch,
    text_tokens=1,
    default_px=576,
    default_frames=25,
    make_inputs=_inputs,
    layout=unet_layout,
    notes=(
        "Attention runs on coarser grids than the latent: tokens are counted at the latent's resolution.",
        "The picture is one token, so cross-attention answers alike whatever it is asked; a check of facts says so.",
    ),
)
