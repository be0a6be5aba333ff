"""Wan 2.2 Animate: Wan with a pose video in the latents and, after every few blocks, attention to a face video."""

from dataclasses import replace
from typing import Any

from torch import nn

from dit_accel.families.base import Family, Layout, SiteSpec, config_of, layout_from_stacks
from dit_accel.families.sample import Sample
from dit_accel.families.wan import WAN_BLOCKS, WAN_EXTRAS, wan_inputs, wan_patch


def _inputs(model: nn.Module, sample: Sample) -> dict[str, Any]:
    config = config_of(model)
    inputs = wan_inputs(model, sample)
    # One latent frame in front is the reference picture; the pipeline makes the rest in segments.
    latents = sample.randn(sample.batch, config["in_channels"], sample.frames + 1, sample.height, sample.width)
    size = config["motion_encoder_size"]
    # The face encoder gives one token frame for four frames, after one of padding.
    faces = sample.randn(sample.batch, 3, 4 * (sample.frames - 1) + 1, size, size)
    return {
        **inputs,
        "hidden_states": latents,
        "pose_hidden_states": sample.video(config["latent_channels"]),
        "face_pixel_values": faces,
    }


def _layout(family: Family, model: nn.Module) -> Layout:
    """The face adapters are bare attentions in a list of their own, called between the blocks."""
    adapters = model.get_submodule("face_adapter").children()
    specs = (SiteSpec(path=f"face_adapter.{index}", kind="cross_attn") for index, _ in enumerate(adapters))
    return layout_from_stacks(replace(family, extras=(*family.extras, *specs)), model)


WAN_ANIMATE = Family(
    name="wan_animate",
    model_classes=("WanAnimateTransformer3DModel",),
    stacks=(WAN_BLOCKS,),
    # The motion encoder in front of the face encoder is called once for every few frames.
    extras=(*WAN_EXTRAS, SiteSpec(path="face_encoder", kind="control", invariant=True)),
    guidance="two_calls",
    conditioning=("encoder_hidden_states", "encoder_hidden_states_image", "face_pixel_values"),
    text="cross",
    latent_layout="BCFHW",
    patch=wan_patch,
    vae_scale=(4, 8),
    text_tokens=512,
    default_px=720,
    default_frames=77,
    make_inputs=_inputs,
    layout=_layout,
    notes=(
        "A long video is made in segments, each a run of its own; the latents have one frame more than a segment.",
        "With guidance the blank face is made anew at every step, so telling the branches apart compares its pixels.",
    ),
)
