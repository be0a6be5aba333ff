"""UNet2DConditionModel: Stable Diffusion 1.x and 2.x, SDXL (Rombach et al., 2112.10752; Podell et al., 2307.01952)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dit_accel.families.base import Family, config_of
from dit_accel.families.sample import Sample
from dit_accel.families.unet_layout import unet_layout

# Height, width, crop and target size as SDXL is told them.
_TIME_IDS = 6


def unet_patch(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """A UNet does not patch."""
    return (1, 1, 1)


def _inputs(model: nn.Module, sample: Sample) -> dict[str, Any]:
    config = config_of(model)
    text_dim = config["encoder_hid_dim"] or config["cross_attention_dim"]
    inputs: dict[str, Any] = {
        "sample": sample.latent(config["in_channels"]),
        "timestep": sample.timestep(),
        "encoder_hidden_states": sample.text(text_dim if isinstance(text_dim, int) else text_dim[0]),
        "return_dict": False,
    }
    inputs |= added_inputs(config, sample)
    if config["class_embed_type"] is not None or config["num_class_embeds"] is not None:
        inputs["class_labels"] = _class_labels(config, sample)
    return inputs


def added_inputs(config: Mapping[str, Any], sample: Sample) -> dict[str, Any]:
    """What SDXL is told besides the prompt, and the guidance scale where it is distilled into the timestep."""
    inputs: dict[str, Any] = {}
    if config["addition_embed_type"] == "text_time":
        pooled = config["projection_class_embeddings_input_dim"] - _TIME_IDS * config["addition_time_embed_dim"]
        inputs["added_cond_kwargs"] = {
            "text_embeds": sample.randn(sample.batch, pooled),
            "time_ids": torch.ones(sample.batch, _TIME_IDS, device=sample.device, dtype=sample.dtype),
        }
    if config["time_cond_proj_dim"]:
        inputs["timestep_cond"] = sample.randn(sample.batch, config["time_cond_proj_dim"])
    return inputs


def _class_labels(config: Mapping[str, Any], sample: Sample) -> torch.Tensor:
    if config["class_embed_type"] in ("projection", "simple_projection"):
        return sample.randn(sample.batch, config["projection_class_embeddings_input_dim"])
    return torch.zeros(sample.batch, device=sample.device, dtype=torch.long)


UNET = Family(
    name="unet",
    model_classes=("UNet2DConditionModel",),
    guidance="batched",
    conditioning=("encoder_hidden_states", "added_cond_kwargs", "class_labels"),
    text="cross",
    latent_layout="BCHW",
    patch=unet_patch,
    default_px=512,
    make_inputs=_inputs,
    layout=unet_layout,
    notes=(
        "Attention runs on coarser grids than the latent: tokens are counted at the latent's resolution.",
        "ControlNet residuals are added to the skips by native code, after the kept outputs: they stay exact.",
        "FreeU and T2I-Adapters change block outputs in place: what is kept has to be copied, which takes memory.",
    ),
)
