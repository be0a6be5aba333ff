"""AnimateDiff: Stable Diffusion's UNet with motion modules, which attend over frames, in every layer (2307.04725)."""

from typing import Any

from torch import nn

from dit_accel.families.base import Family, config_of
from dit_accel.families.sample import Sample
from dit_accel.families.unet import added_inputs, unet_patch
from dit_accel.families.unet_layout import unet_layout


def _inputs(model: nn.Module, sample: Sample) -> dict[str, Any]:
    config = config_of(model)
    # The pipeline repeats the prompt for every frame.
    text = sample.randn(sample.batch * sample.frames, sample.text_tokens, config["cross_attention_dim"])
    return {
        "sample": sample.video(config["in_channels"]),
        "timestep": sample.timestep(),
        "encoder_hidden_states": text,
        **added_inputs(config, sample),
        "return_dict": False,
    }


ANIMATEDIFF = Family(
    name="animatediff",
    model_classes=("UNetMotionModel",),
    guidance="batched",
    conditioning=("encoder_hidden_states", "added_cond_kwargs"),
    text="cross",
    latent_layout="BCFHW",
    patch=unet_patch,
    default_px=512,
    default_frames=16,
    make_inputs=_inputs,
    layout=unet_layout,
    notes=(
        "Attention runs on coarser grids than the latent: tokens are counted at the latent's resolution.",
        "Enable FreeNoise before accelerating: it puts other blocks, whose attentions keep nothing, into the UNet.",
        "With FreeInit each of its passes starts anew.",
    ),
)
