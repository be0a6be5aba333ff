"""Mochi 1: joint attention over video and text (video first, padding left out); the text stream is narrower."""

from typing import Any

import torch
from torch import nn

from dit_accel.families.base import Family, SiteSpec, Stack, config_of
from dit_accel.families.common import norm, square_patch, text
from dit_accel.families.sample import Sample


def _inputs(model: nn.Module, sample: Sample) -> dict[str, Any]:
    config = config_of(model)
    return {
        "hidden_states": sample.video(config["in_channels"]),
        "encoder_hidden_states": sample.text(config["text_embed_dim"]),
        "timestep": sample.timestep(500, sample.dtype),
        "encoder_attention_mask": sample.mask(torch.bool),
        "return_dict": False,
    }


def _on_shapes(model: nn.Module) -> None:
    """Attention leaves out the padding, which it reads from the mask: count every prompt as full.

    The positions are computed under autocast, which the meta device does not have.
    """
    rope: Any = model.get_submodule("rope")
    rope._create_rope = _rotations
    for block in model.get_submodule("transformer_blocks").children():
        block.register_forward_pre_hook(_with_full_prompt, with_kwargs=True)


def _rotations(frequencies: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    angles = torch.einsum("nd,dhf->nhf", positions.float(), frequencies.float())
    return torch.cos(angles), torch.sin(angles)


def _with_full_prompt(block: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    mask = torch.ones(kwargs["encoder_attention_mask"].shape, dtype=torch.bool)  # with values, on the CPU
    return args, {**kwargs, "encoder_attention_mask": mask}


MOCHI = Family(
    name="mochi",
    model_classes=("MochiTransformer3DModel",),
    stacks=(
        Stack(
            path="transformer_blocks",
            alias="blocks",
            streams=("hidden_states", "encoder_hidden_states"),
            sites=(
                # norm2 and norm4 come after what they normalise: they are modulated anew at every step.
                norm("norm1.norm", "attn1"),
                norm("norm1_context.norm", "attn1"),
                SiteSpec(path="attn1", kind="joint_attn"),
                norm("norm3", "ff"),
                SiteSpec(path="ff", kind="ff"),
                norm("norm3_context", "ff_context"),
                SiteSpec(path="ff_context", kind="ff_context"),
            ),
        ),
    ),
    extras=(
        text("time_embed.pooler"),
        text("time_embed.caption_proj"),
    ),
    guidance="batched",
    conditioning=("encoder_hidden_states",),
    text="suffix",
    latent_layout="BCFHW",
    patch=square_patch,
    vae_scale=(6, 8),
    text_tokens=256,
    default_px=480,
    default_frames=163,
    make_inputs=_inputs,
    on_shapes=_on_shapes,
)
