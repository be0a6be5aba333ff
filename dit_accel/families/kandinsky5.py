"""Kandinsky 5, images and videos: a few text blocks, then self-attention and attention to that text (2511.14993)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dit_accel.families.base import Family, SiteSpec, Stack, config_of
from dit_accel.families.common import norm, text
from dit_accel.families.sample import Sample


def _patch(config: Mapping[str, Any]) -> tuple[int, int, int]:
    frames, height, width = config["patch_size"]
    return (frames, height, width)


def _inputs(model: nn.Module, sample: Sample) -> dict[str, Any]:
    config = config_of(model)
    # Beside the noisy latents: those of the first frame, and where it is.
    channels = config["in_visual_dim"] * (2 if config["visual_cond"] else 1) + bool(config["visual_cond"])
    cells = (sample.frames, sample.height, sample.width)
    grid = (cell // size for cell, size in zip(cells, _patch(config), strict=True))
    return {
        "hidden_states": sample.randn(sample.batch, *cells, channels),
        "encoder_hidden_states": sample.text(config["in_text_dim"]),
        "timestep": sample.timestep(500, sample.dtype),
        "pooled_projections": sample.randn(sample.batch, config["in_text_dim2"]),
        "visual_rope_pos": [torch.arange(size, device=sample.device) for size in grid],
        "text_rope_pos": torch.arange(sample.text_tokens, device=sample.device),
        "return_dict": False,
    }


_SELF_ATTENTION = (
    norm("self_attention_norm", "self_attention"),
    SiteSpec(path="self_attention", kind="self_attn"),
)
_FEED_FORWARD_NORM = norm("feed_forward_norm", "feed_forward")

KANDINSKY5 = Family(
    name="kandinsky5",
    model_classes=("Kandinsky5Transformer3DModel",),
    stacks=(
        Stack(
            path="text_transformer_blocks",
            alias="text",
            streams=("x",),
            sites=(*_SELF_ATTENTION, _FEED_FORWARD_NORM, SiteSpec(path="feed_forward", kind="ff_context")),
        ),
        Stack(
            path="visual_transformer_blocks",
            alias="blocks",
            streams=("visual_embed",),
            # The text blocks are modulated by the timestep, so keys and values of the text change at every step.
            sites=(
                *_SELF_ATTENTION,
                norm("cross_attention_norm", "cross_attention"),
                SiteSpec(path="cross_attention", kind="cross_attn"),
                _FEED_FORWARD_NORM,
                SiteSpec(path="feed_forward", kind="ff"),
            ),
        ),
    ),
    extras=(
        text("text_embeddings"),
        text("pooled_text_embeddings"),
    ),
    guidance="two_calls",
    conditioning=("encoder_hidden_states", "pooled_projections"),
    text="cross",
    latent_layout="BFHWC",
    patch=_patch,
    vae_scale=(4, 8),
    text_tokens=512,
    default_px=512,
    default_frames=121,
    make_inputs=_inputs,
    notes=(
        "With sparse attention (nabla) the tokens go in squares of 8 x 8, not row by row.",
        "The pipelines do not name the guidance branches; they are told apart by their prompts.",
    ),
)
