"""Sample inputs for a discovered denoiser, from the names of its arguments and the usual keys of its config."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from dit_accel.errors import UnsupportedModelError
from dit_accel.families.base import config_of
from dit_accel.families.sample import Sample
from dit_accel.families.source import parameter_names, required_parameters

_TEXT_DIMS = ("joint_attention_dim", "text_embed_dim", "cap_feat_dim", "caption_channels", "text_dim", "text_in_dim")
_NEEDED = ("hidden_states", "encoder_hidden_states", "timestep")  # also where they have a default (AuraFlow)
_MORE_TEXT_DIMS = ("caption_dim", "encoder_hidden_dim", "cross_attention_dim")
_Make = Callable[[Mapping[str, Any], Sample, bool], Any]


def guessed_inputs(model: nn.Module, sample: Sample) -> dict[str, Any]:
    """Keyword arguments for a denoiser whose arguments have the names that diffusers gives them.

    Raises:
        UnsupportedModelError: A required argument has another name, or the config lacks its size.
    """
    config = config_of(model)
    video = "3D" in type(model).__name__ or "Motion" in type(model).__name__
    inputs: dict[str, Any] = {}
    required = required_parameters(type(model))
    for name in parameter_names(type(model)):
        if name not in required and name not in _NEEDED:
            continue
        make = _MAKERS.get(name)
        if make is None:
            raise UnsupportedModelError(
                f"cannot guess what {type(model).__name__} wants as '{name}'; give a Family a "
                "`make_inputs(model, sample)` that returns the keyword arguments of one call"
            )
        inputs[name] = make(config, sample, video)
    return {**inputs, "return_dict": False}


def _latents(config: Mapping[str, Any], sample: Sample, video: bool) -> torch.Tensor:
    channels = _size(config, ("in_channels",), "its latents")
    return sample.video(channels) if video else sample.latent(channels)


def _latent_list(config: Mapping[str, Any], sample: Sample, video: bool) -> list[torch.Tensor]:
    channels = _size(config, ("in_channels",), "its latents")
    return [sample.randn(channels, sample.frames, sample.height, sample.width) for _ in range(sample.batch)]


def _text(config: Mapping[str, Any], sample: Sample, video: bool) -> torch.Tensor:
    return sample.text(_size(config, (*_TEXT_DIMS, *_MORE_TEXT_DIMS), "its prompt embeddings"))


def _text_list(config: Mapping[str, Any], sample: Sample, video: bool) -> list[torch.Tensor]:
    return list(_text(config, sample, video).unbind(0))


def _pooled(config: Mapping[str, Any], sample: Sample, video: bool) -> torch.Tensor:
    return sample.randn(sample.batch, _size(config, ("pooled_projection_dim",), "its pooled prompt"))


def _size(config: Mapping[str, Any], keys: tuple[str, ...], what: str) -> int:
    for key in keys:
        if isinstance(config.get(key), int):
            return int(config[key])
    raise UnsupportedModelError(f"cannot guess the width of {what}: the config has none of {', '.join(keys)}")


_MAKERS: dict[str, _Make] = {
    "hidden_states": _latents,
    "sample": _latents,
    "x": _latent_list,
    "encoder_hidden_states": _text,
    "cap_feats": _text_list,
    "pooled_projections": _pooled,
    "timestep": lambda config, sample, video: sample.timestep(0.5, sample.dtype),
    "t": lambda config, sample, video: sample.timestep(0.5, sample.dtype),
    "encoder_attention_mask": lambda config, sample, video: sample.mask(torch.bool),
}
