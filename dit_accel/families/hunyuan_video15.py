"""HunyuanVideo 1.5: double-stream blocks over the video and three kinds of prompt tokens (video first; 2511.18870)."""

from typing import Any

import torch
from torch import nn

from dit_accel.families.base import Family, Stack, config_of
from dit_accel.families.common import JOINT_SITES, text, video_patch
from dit_accel.families.sample import Sample

# Pieces of a picture that SigLIP sees, and letters that ByT5 reads: the pipelines always send so many.
_IMAGE_TOKENS = 729
_LETTER_TOKENS = 256


def _inputs(model: nn.Module, sample: Sample) -> dict[str, Any]:
    config = config_of(model)
    ones = torch.ones(sample.batch, _LETTER_TOKENS, device=sample.device, dtype=torch.long)
    inputs = {
        "hidden_states": sample.video(config["in_channels"]),
        "timestep": sample.timestep(500, sample.dtype),
        "encoder_hidden_states": sample.text(config["text_embed_dim"]),
        "encoder_attention_mask": sample.mask(torch.long),
        "encoder_hidden_states_2": sample.randn(sample.batch, _LETTER_TOKENS, config["text_embed_2_dim"]),
        "encoder_attention_mask_2": ones,
        "image_embeds": sample.randn(sample.batch, _IMAGE_TOKENS, config["image_embed_dim"]),
        "return_dict": False,
    }
    if config["use_meanflow"]:
        inputs["timestep_r"] = sample.timestep(400, sample.dtype)
    return inputs


def _on_shapes(model: nn.Module) -> None:
    """It looks whether its image is empty, and sorts tokens by their masks: count a full image and full prompts.

    What it looks at is put on the CPU, where it has values, and back wherever it meets the weights.
    """
    model.register_forward_pre_hook(_with_values, with_kwargs=True)
    for name in ("image_embedder", "context_embedder"):
        model.get_submodule(name).register_forward_pre_hook(_without_values)
    for block in model.get_submodule("transformer_blocks").children():
        block.register_forward_pre_hook(_without_values)


def _with_values(model: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    names = ("image_embeds", "encoder_attention_mask", "encoder_attention_mask_2")
    return args, {**kwargs, **{name: torch.ones(kwargs[name].shape, dtype=kwargs[name].dtype) for name in names}}


def _without_values(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(arg.to("meta") if isinstance(arg, torch.Tensor) else arg for arg in args)


HUNYUAN_VIDEO15 = Family(
    name="hunyuan_video15",
    model_classes=("HunyuanVideo15Transformer3DModel",),
    stacks=(
        Stack(
            path="transformer_blocks",
            alias="blocks",
            streams=("hidden_states", "encoder_hidden_states"),
            sites=JOINT_SITES,
        ),
    ),
    # The rest of context_embedder is modulated by the timestep.
    extras=(
        text("context_embedder.proj_in"),
        text("context_embedder_2"),
        text("image_embedder"),
    ),
    guidance="two_calls",
    conditioning=("encoder_hidden_states", "encoder_hidden_states_2", "image_embeds"),
    text="suffix",
    latent_layout="BCFHW",
    patch=video_patch,
    vae_scale=(4, 16),
    text_tokens=1000,
    default_px=480,
    default_frames=121,
    make_inputs=_inputs,
    on_shapes=_on_shapes,
    graph_break="it looks whether its image is empty",
    notes=(
        "Guidance is run by the pipeline's guider, which names each branch; some guiders call three times a step.",
    ),
)
