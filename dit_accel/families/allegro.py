"""Allegro video: self-attention with rotary positions, text cross-attention, feed-forward (2410.15458)."""

from typing import Any

from torch import nn

from dit_accel.families.base import Family, Stack, config_of
from dit_accel.families.common import ADALN_CROSS_ATTENTIONS, FF, norm, text, video_patch
from dit_accel.families.sample import Sample


def _inputs(model: nn.Module, sample: Sample) -> dict[str, Any]:
    config = config_of(model)
    # The rotary positions that pipelines send multiply elementwise: they cost no multiply-accumulates.
    return {
        "hidden_states": sample.video(config["in_channels"]),
        "encoder_hidden_states": sample.text(config["caption_channels"]),
        "timestep": sample.timestep(),
        "encoder_attention_mask": sample.mask(),
        "return_dict": False,
    }


ALLEGRO = Family(
    name="allegro",
    model_classes=("AllegroTransformer3DModel",),
    stacks=(
        Stack(
            path="transformer_blocks",
            alias="blocks",
            streams=("hidden_states",),
            # norm3 is never called.
            sites=(*ADALN_CROSS_ATTENTIONS, norm("norm2", "ff"), FF),
        ),
    ),
    extras=(text("caption_projection"),),
    guidance="batched",
    conditioning=("encoder_hidden_states",),
    text="cross",
    latent_layout="BCFHW",
    patch=video_patch,
    vae_scale=(4, 8),
    text_tokens=512,
    default_px=720,
    default_frames=88,
    make_inputs=_inputs,
)
