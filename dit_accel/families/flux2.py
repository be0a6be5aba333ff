"""FLUX.2 and FLUX.2 klein: double-stream blocks, then fused parallel blocks on the joined sequence (text first)."""

from typing import Any

import torch
from torch import nn

from dit_accel.families.base import Family, SiteSpec, Stack, config_of
from dit_accel.families.common import JOINT_FEED_FORWARDS, norm, packed_patch, position_ids, text
from dit_accel.families.sample import Sample
from dit_accel.families.tokens import grid_from_ids


def _inputs(model: nn.Module, sample: Sample) -> dict[str, Any]:
    config = config_of(model)
    rows, columns = sample.height // 2, sample.width // 2
    # Axes of the ids: picture, row, column, position in the prompt.
    txt_ids = torch.zeros(sample.text_tokens, 4, device=sample.device, dtype=sample.dtype)
    txt_ids[:, 3] += torch.arange(sample.text_tokens, device=sample.device)
    guidance = torch.full((sample.batch,), 4.0, device=sample.device) if config["guidance_embeds"] else None
    return {
        "hidden_states": sample.randn(sample.batch, rows * columns, config["in_channels"]),
        "encoder_hidden_states": sample.text(config["joint_attention_dim"]),
        "timestep": sample.timestep(0.5, sample.dtype),
        "img_ids": position_ids(sample, rows, columns, axes=4),
        "txt_ids": txt_ids,
        "guidance": guidance,
        "return_dict": False,
    }


FLUX2 = Family(
    name="flux2",
    model_classes=("Flux2Transformer2DModel",),
    stacks=(
        Stack(
            path="transformer_blocks",
            alias="blocks",
            streams=("encoder_hidden_states", "hidden_states"),
            # The modulation is computed once for all blocks, so the norms are plain.
            sites=(
                norm("norm1", "attn"),
                norm("norm1_context", "attn"),
                SiteSpec(path="attn", kind="joint_attn"),
                *JOINT_FEED_FORWARDS,
            ),
        ),
        Stack(
            path="single_transformer_blocks",
            alias="single",
            streams=("hidden_states",),
            # Attention and feed-forward share their projections: one module is both.
            sites=(norm("norm", "attn"), SiteSpec(path="attn", kind="single_attn")),
        ),
    ),
    extras=(text("context_embedder"),),
    guidance="distilled",
    conditioning=("encoder_hidden_states",),
    text="prefix",
    latent_layout="BNC",
    patch=packed_patch,
    text_tokens=512,
    # Reference pictures follow the generated one.
    token_grid=lambda model, call: grid_from_ids(call.get("img_ids"), frame=None, picture=0),
    make_inputs=_inputs,
    notes=("FLUX.2 klein base is not distilled: its pipeline calls the denoiser twice per step.",),
)
