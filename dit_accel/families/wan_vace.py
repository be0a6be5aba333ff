"""Wan VACE: Wan with a second stack that turns a control video into hints for some of the blocks (2503.07598)."""

from typing import Any

from torch import nn

from dit_accel.families.base import Family, SiteSpec, Stack, config_of
from dit_accel.families.sample import Sample
from dit_accel.families.wan import WAN_BLOCKS, WAN_EXTRAS, WAN_SITES, wan_inputs, wan_patch


def _inputs(model: nn.Module, sample: Sample) -> dict[str, Any]:
    return {
        **wan_inputs(model, sample),
        "control_hidden_states": sample.video(config_of(model)["vace_in_channels"]),
    }


WAN_VACE = Family(
    name="wan_vace",
    model_classes=("WanVACETransformer3DModel",),
    stacks=(
        Stack(
            path="vace_blocks",
            alias="vace",
            # A block returns its hint beside the stream it adds to.
            streams=(),
            # Only the first block has proj_in, which sees the control video and not yet the latents.
            sites=(
                SiteSpec(path="proj_in", kind="control", invariant=True),
                *WAN_SITES,
                SiteSpec(path="proj_out", kind="proj_out"),
            ),
        ),
        WAN_BLOCKS,
    ),
    extras=(*WAN_EXTRAS, SiteSpec(path="vace_patch_embedding", kind="control", invariant=True)),
    guidance="two_calls",
    conditioning=("encoder_hidden_states", "encoder_hidden_states_image", "control_hidden_states"),
    text="cross",
    latent_layout="BCFHW",
    patch=wan_patch,
    vae_scale=(4, 8),
    text_tokens=512,
    default_px=512,
    default_frames=81,
    make_inputs=_inputs,
    notes=("A reference image adds frames to the latents.",),
)
