"""HiDream-I1: double-, then single-stream blocks with mixtures of experts; each takes text of its own (2505.22705)."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from dit_accel.families.base import Family, Layout, SiteSpec, Stack, config_of, layout_from_stacks, submodule
from dit_accel.families.common import norm, square_patch, text
from dit_accel.families.sample import Sample
from dit_accel.families.tokens import TokenGrid


def _inputs(model: nn.Module, sample: Sample) -> dict[str, Any]:
    config = config_of(model)
    t5_dim, llama_dim = config["caption_channels"]
    layers = max(config["llama_layers"]) + 1
    return {
        "hidden_states": sample.latent(config["in_channels"]),
        "timesteps": sample.timestep(),
        "encoder_hidden_states_t5": sample.text(t5_dim),
        "encoder_hidden_states_llama3": sample.randn(layers, sample.batch, sample.text_tokens, llama_dim),
        "pooled_embeds": sample.randn(sample.batch, config["text_emb_dim"]),
        "return_dict": False,
    }


def _grid(model: Any, call: Mapping[str, Any]) -> TokenGrid | None:
    latents: Any = call.get("hidden_states")
    texts = [call.get(f"encoder_hidden_states_{name}") for name in ("t5", "llama3")]
    if not all(isinstance(value, torch.Tensor) for value in (latents, *texts)) or latents.dim() != 4:
        return None
    patch = config_of(model)["patch_size"]
    rows, columns = latents.shape[-2] // patch, latents.shape[-1] // patch
    # Pictures that are not square are padded to the largest number of tokens.
    start = rows * columns if rows == columns else model.max_seq
    # T5's tokens, those of Llama's last layer, and those of the layer that is this block's.
    t5, llama = (text.shape[-2] for text in texts if text is not None)
    return TokenGrid(frames=1, rows=rows, columns=columns, text=(start, start + t5 + 2 * llama))


def _on_shapes(model: Any) -> None:
    """Where a token goes is read from its values; at the same cost, all tokens go to the first expert."""
    model.patchify = partial(_patchify, model, model.patchify)
    for module in model.modules():
        if hasattr(module, "moe_infer"):
            module.moe_infer = partial(_first_expert, module)


def _patchify(model: Any, original: Callable[..., tuple[Any, ...]], latents: torch.Tensor) -> tuple[Any, ...]:
    tokens, masks, _, ids = original(latents)
    patch = model.config.patch_size
    return tokens, masks, [(latents.shape[-2] // patch, latents.shape[-1] // patch)] * len(latents), ids


def _first_expert(module: Any, x: torch.Tensor, expert_ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    chosen = module.experts[0](x.repeat_interleave(module.num_activated_experts, dim=0)) * weights
    total: torch.Tensor = chosen.view(len(x), module.num_activated_experts, -1).sum(dim=1)
    return total


def _layout(family: Family, model: nn.Module) -> Layout:
    """There are as many caption projections as blocks, and one more."""
    projections = submodule(model, "caption_projection") or nn.ModuleList()
    captions = (text(f"caption_projection.{name}") for name, _ in projections.named_children())
    return layout_from_stacks(dataclasses.replace(family, extras=(*family.extras, *captions)), model)


HIDREAM = Family(
    name="hidream",
    model_classes=("HiDreamImageTransformer2DModel",),
    stacks=(
        Stack(
            path="double_stream_blocks",
            alias="blocks",
            streams=("hidden_states", "encoder_hidden_states"),
            # Every block is wrapped in one that does nothing but call it.
            sites=(
                norm("block.norm1_i", "block.attn1"),
                norm("block.norm1_t", "block.attn1"),
                SiteSpec(path="block.attn1", kind="joint_attn"),
                norm("block.norm3_i", "block.ff_i"),
                norm("block.norm3_t", "block.ff_t"),
                SiteSpec(path="block.ff_i", kind="ff"),
                SiteSpec(path="block.ff_t", kind="ff_context"),
            ),
        ),
        Stack(
            path="single_stream_blocks",
            alias="single",
            streams=("hidden_states",),
            sites=(
                norm("block.norm1_i", "block.attn1"),
                SiteSpec(path="block.attn1", kind="single_attn"),
                norm("block.norm3_i", "block.ff_i"),
                SiteSpec(path="block.ff_i", kind="ff"),
            ),
        ),
    ),
    extras=(text("p_embedder"),),
    guidance="batched",
    conditioning=("encoder_hidden_states_llama3", "encoder_hidden_states_t5", "pooled_embeds"),
    text="suffix",
    latent_layout="BCHW",
    patch=square_patch,
    text_tokens=128,
    token_grid=_grid,
    make_inputs=_inputs,
    on_shapes=_on_shapes,
    layout=_layout,
    graph_break="it reads which expert each token goes to",
    notes=("HiDream-I1 Dev and Fast are distilled: run with guidance_scale 0, one call of the plain batch.",),
)
