"""LTX-2: a video and an audio stream in each block, each with text, and attention from either to the other."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from dit_accel.families.base import Family, Layout, SiteSpec, Stack, config_of, layout_from_stacks
from dit_accel.families.common import norm, text, video_patch
from dit_accel.families.ltx import ltx_grid
from dit_accel.families.sample import Sample

_FRAME_RATE = 24.0


def _inputs(model: nn.Module, sample: Sample) -> dict[str, Any]:
    config = config_of(model)
    tokens = sample.frames * sample.height * sample.width
    seconds = ((sample.frames - 1) * config["vae_scale_factors"][0] + 1) / _FRAME_RATE
    per_second = config["audio_sampling_rate"] / config["audio_hop_length"] / config["audio_scale_factor"]
    sounds = round(seconds * per_second)
    # LTX-2.3 projects the prompt before the denoiser sees it.
    widths = (
        ("caption_channels",) * 2
        if config["use_prompt_embeddings"]
        else (
            "cross_attention_dim",
            "audio_cross_attention_dim",
        )
    )
    timestep = sample.timestep()
    return {
        "hidden_states": sample.randn(sample.batch, tokens, config["in_channels"]),
        "audio_hidden_states": sample.randn(sample.batch, sounds, config["audio_in_channels"]),
        "encoder_hidden_states": sample.text(config[widths[0]]),
        "audio_encoder_hidden_states": sample.text(config[widths[1]]),
        "timestep": timestep,
        "sigma": timestep,
        "encoder_attention_mask": sample.mask(),
        "audio_encoder_attention_mask": sample.mask(),
        "num_frames": sample.frames,
        "height": sample.height,
        "width": sample.width,
        "fps": _FRAME_RATE,
        "audio_num_frames": sounds,
        "return_dict": False,
    }


def _is_prompt_timed(config: Mapping[str, Any]) -> bool:
    """Whether the timestep modulates the prompt on its way to keys and values: so in LTX-2.3, not in 2.0 and 2.5."""
    modulated = config["cross_attn_mod"] or config["audio_cross_attn_mod"]
    return bool(modulated and config["use_prompt_adaln_single"])


def _layout(family: Family, model: nn.Module) -> Layout:
    if _is_prompt_timed(config_of(model)):
        (stack,) = family.stacks
        sites = tuple(spec for spec in stack.sites if not spec.invariant)
        family = replace(family, stacks=(replace(stack, sites=sites),))
    return layout_from_stacks(family, model)


LTX2 = Family(
    name="ltx2",
    model_classes=("LTX2VideoTransformer3DModel",),
    stacks=(
        Stack(
            path="transformer_blocks",
            alias="blocks",
            streams=("hidden_states", "audio_hidden_states"),
            sites=(
                norm("norm1", "attn1"),
                SiteSpec(path="attn1", kind="self_attn"),
                norm("audio_norm1", "audio_attn1"),
                SiteSpec(path="audio_attn1", kind="self_attn"),
                norm("norm2", "attn2"),
                SiteSpec(path="attn2", kind="cross_attn"),
                text("attn2.to_k"),
                text("attn2.to_v"),
                norm("audio_norm2", "audio_attn2"),
                SiteSpec(path="audio_attn2", kind="cross_attn"),
                text("audio_attn2.to_k"),
                text("audio_attn2.to_v"),
                # Both attentions between the streams read both norms.
                norm("audio_to_video_norm", "audio_to_video_attn", "video_to_audio_attn"),
                norm("video_to_audio_norm", "audio_to_video_attn", "video_to_audio_attn"),
                # Not "cross_attn", which is attention to the prompt.
                SiteSpec(path="audio_to_video_attn", kind="joint_attn"),
                SiteSpec(path="video_to_audio_attn", kind="joint_attn"),
                norm("norm3", "ff"),
                SiteSpec(path="ff", kind="ff"),
                norm("audio_norm3", "audio_ff"),
                SiteSpec(path="audio_ff", kind="ff"),
            ),
        ),
    ),
    extras=(
        text("caption_projection"),
        text("audio_caption_projection"),
    ),
    guidance="batched",
    conditioning=("encoder_hidden_states", "audio_encoder_hidden_states"),
    text="cross",
    latent_layout="BNC",
    patch=video_patch,
    vae_scale=(8, 32),
    text_tokens=1024,
    default_px=512,
    default_frames=121,
    token_grid=ltx_grid,
    make_inputs=_inputs,
    layout=_layout,
    notes=(
        "Spatio-temporal and modality guidance are one more call each per step; the pipelines name all three.",
        "In the call without the other modality, the attentions between video and audio do not run.",
        "Where conditions or references follow the tokens of the video, there is no token grid.",
    ),
)
