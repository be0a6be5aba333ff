"""Z-Image: refiners of the noisy tokens and of the prompt, then single-stream blocks on both (image first)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dit_accel.families.base import Family, SiteSpec, Stack, config_of
from dit_accel.families.common import norm, text
from dit_accel.families.sample import Sample
from dit_accel.families.tokens import TokenGrid

# Image and prompt are each padded to a multiple of this many tokens before they are joined.
_MULTIPLE = 32


def _patch(config: Mapping[str, Any]) -> tuple[int, int, int]:
    size, frames = config["all_patch_size"][0], config["all_f_patch_size"][0]
    return (frames, size, size)


def _inputs(model: nn.Module, sample: Sample) -> dict[str, Any]:
    config = config_of(model)
    size = (config["in_channels"], sample.frames, sample.height, sample.width)
    return {
        "x": [sample.randn(*size) for _ in range(sample.batch)],
        "t": sample.timestep(0.5, sample.dtype),
        "cap_feats": [sample.randn(sample.text_tokens, config["cap_feat_dim"]) for _ in range(sample.batch)],
        "return_dict": False,
    }


def _grid(model: nn.Module, call: Mapping[str, Any]) -> TokenGrid | None:
    latents, prompts = call.get("x"), call.get("cap_feats")
    # Z-Image Omni gives a list of pictures for each image to be made.
    if not (latents and prompts and isinstance(latents[0], torch.Tensor)):
        return None
    frames, rows, columns = (
        cells // size for cells, size in zip(latents[0].shape[1:], _patch(config_of(model)), strict=True)
    )
    start = _padded(frames * rows * columns)
    end = start + max(_padded(len(prompt)) for prompt in prompts)
    return TokenGrid(frames=frames, rows=rows, columns=columns, text=(start, end))


def _padded(tokens: int) -> int:
    return -(-tokens // _MULTIPLE) * _MULTIPLE


def _sites(attention: str) -> tuple[SiteSpec, ...]:
    return (
        norm("attention_norm1", "attention"),
        SiteSpec(path="attention", kind=attention),
        norm("ffn_norm1", "feed_forward"),
        SiteSpec(path="feed_forward", kind="ff"),
    )


# The prompt's refiner is not modulated by the time.
_TEXT_SITES = (
    norm("attention_norm1", "attention"),
    text("attention"),
    norm("ffn_norm1", "feed_forward"),
    text("feed_forward"),
)

Z_IMAGE = Family(
    name="z_image",
    model_classes=("ZImageTransformer2DModel",),
    stacks=(
        Stack(path="noise_refiner", alias="noise_refiner", streams=("x",), sites=_sites("self_attn")),
        Stack(path="context_refiner", alias="context_refiner", streams=(), sites=_TEXT_SITES),
        Stack(path="layers", alias="blocks", streams=("x",), sites=_sites("joint_attn")),
    ),
    extras=(text("cap_embedder"),),
    guidance="batched",
    conditioning=("cap_feats",),
    text="suffix",
    latent_layout="list",
    patch=_patch,
    text_tokens=512,
    token_grid=_grid,
    make_inputs=_inputs,
    notes=("Z-Image-Turbo is distilled: it is run with guidance_scale 0, one call of the plain batch.",),
)
