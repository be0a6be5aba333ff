"""Lumina-Image 2.0: refiners of the prompt and of the noisy tokens, then blocks on both (text first; 2503.21758)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dit_accel.families.base import Family, SiteSpec, Stack, config_of
from dit_accel.families.common import norm, square_patch, text
from dit_accel.families.sample import Sample
from dit_accel.families.tokens import TokenGrid


def _inputs(model: nn.Module, sample: Sample) -> dict[str, Any]:
    config = config_of(model)
    return {
        "hidden_states": sample.latent(config["in_channels"]),
        "timestep": sample.timestep(0.5, sample.dtype),
        "encoder_hidden_states": sample.text(config["cap_feat_dim"]),
        "encoder_attention_mask": sample.mask(torch.bool),
        "return_dict": False,
    }


def _grid(model: nn.Module, call: Mapping[str, Any]) -> TokenGrid | None:
    """Each image follows its own prompt without padding: prompts of several lengths have no one place for text."""
    latents, mask = call.get("hidden_states"), call.get("encoder_attention_mask")
    if not (isinstance(latents, torch.Tensor) and isinstance(mask, torch.Tensor)) or mask.device.type == "meta":
        return None
    lengths = set(mask.sum(dim=1).tolist())
    if len(lengths) != 1:
        return None
    patch = config_of(model)["patch_size"]
    rows, columns = latents.shape[-2] // patch, latents.shape[-1] // patch
    return TokenGrid(frames=1, rows=rows, columns=columns, text=(0, int(lengths.pop())))


def _on_shapes(model: nn.Module) -> None:
    """The positions are made for the prompts' lengths, which are read from the mask: count every prompt as full."""
    rope: Any = model.rope_embedder
    original = rope.forward
    rope.forward = lambda hidden_states, mask: original(hidden_states, torch.ones(mask.shape, dtype=torch.bool))


def _sites(attention: str) -> tuple[SiteSpec, ...]:
    return (
        # norm1 also returns the gates, so only its inner norm may be skipped.
        norm("norm1.norm", "attn"),
        SiteSpec(path="attn", kind=attention),
        norm("ffn_norm1", "feed_forward"),
        SiteSpec(path="feed_forward", kind="ff"),
    )


# The prompt's refiner is not modulated by the time.
_TEXT_SITES = (norm("norm1", "attn"), text("attn"), norm("ffn_norm1", "feed_forward"), text("feed_forward"))

LUMINA2 = Family(
    name="lumina2",
    model_classes=("Lumina2Transformer2DModel",),
    stacks=(
        Stack(path="context_refiner", alias="context_refiner", streams=(), sites=_TEXT_SITES),
        Stack(path="noise_refiner", alias="noise_refiner", streams=("hidden_states",), sites=_sites("self_attn")),
        Stack(path="layers", alias="blocks", streams=("hidden_states",), sites=_sites("joint_attn")),
    ),
    extras=(text("time_caption_embed.caption_embedder"),),
    guidance="two_calls",
    conditioning=("encoder_hidden_states", "encoder_attention_mask"),
    text="prefix",
    latent_layout="BCHW",
    patch=square_patch,
    text_tokens=256,
    token_grid=_grid,
    make_inputs=_inputs,
    on_shapes=_on_shapes,
    graph_break="it reads the lengths of the prompts",
    notes=("With cfg_trunc_ratio < 1 the pipeline leaves the second call out in the last steps.",),
)
