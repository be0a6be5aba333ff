"""PixArt-alpha, PixArt-Sigma: cross-attention DiT blocks, adaLN-single (Chen et al., 2310.00426, 2403.04692)."""

from typing import Any

from torch import nn

from dit_accel.families.base import Family, Stack, config_of
from dit_accel.families.common import ADALN_CROSS_ATTENTIONS, FF, norm, square_patch, text
from dit_accel.families.sample import Sample


def _inputs(model: nn.Module, sample: Sample) -> dict[str, Any]:
    config = config_of(model)
    added: dict[str, Any] = {"resolution": None, "aspect_ratio": None}
    if getattr(model, "use_additional_conditions", False):
        added = {"resolution": sample.randn(sample.batch, 2), "aspect_ratio": sample.randn(sample.batch, 1)}
    return {
        "hidden_states": sample.latent(config["in_channels"]),
        "encoder_hidden_states": sample.text(config["caption_channels"] or config["cross_attention_dim"]),
        "encoder_attention_mask": sample.mask(),
        "timestep": sample.timestep(),
        "added_cond_kwargs": added,
        "return_dict": False,
    }


PIXART = Family(
    name="pixart",
    model_classes=("PixArtTransformer2DModel",),
    stacks=(
        Stack(
            path="transformer_blocks",
            alias="blocks",
            streams=("hidden_states",),
            sites=(*ADALN_CROSS_ATTENTIONS, norm("norm2", "ff"), FF),
        ),
    ),
    extras=(text("caption_projection"),),
    guidance="batched",
    conditioning=("encoder_hidden_states",),
    text="cross",
    latent_layout="BCHW",
    patch=square_patch,
    text_tokens=120,
    make_inputs=_inputs,
    notes=("PixArt-Sigma pads prompts to 300 tokens, PixArt-alpha to 120.",),
)
