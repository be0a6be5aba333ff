"""UNet2DConditionModel: Stable Diffusion 1.x/2.x, SDXL."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dit_accel.families.base import Family, config_of
from dit_accel.families.sample import Sample


def _patch(config: Mapping[str, Any]) -> tuple[int, int, int]:
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
    if config["addition_embed_type"] == "text_time":
        time_ids = 6
        pooled = config["projection_class_embeddings_input_dim"] - time_ids * config["addition_time_embed_dim"]
        inputs["added_cond_kwargs"] = {
            "text_embeds": sample.randn(sample.batch, pooled),
            "time_ids": torch.ones(sample.batch, time_ids, device=sample.device, dtype=sample.dtype),
        }
    if config["time_cond_proj_dim"]:
        inputs["timestep_cond"] = sample.randn(sample.batch, config["time_cond_proj_dim"])
    if config["class_embed_type"] is not None or config["num_class_embeds"] is not None:
        inputs["class_labels"] = _class_labels(config, sample)
    return inputs


def _class_labels(config: Mapping[str, Any], sample: Sample) -> torch.Tensor:
    kind = config["class_embed_type"]
    if kind in ("projection", "simple_projection"):
        return sample.randn(sample.batch, config["projection_class_embeddings_input_dim"])
    return torch.zeros(sample.batch, device=sample.device, dtype=torch.long)


UNET = Family(
    name="unet",
    model_classes=("UNet2DConditionModel",),
    guidance="batched",
    conditioning=("encoder_hidden_states", "added_cond_kwargs"),
    text="cross",
    latent_layout="BCHW",
    patch=_patch,
    default_px=512,
    make_inputs=_inputs,
)
