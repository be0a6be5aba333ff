"""Automatic discovery: the blocks, leaf sites and residual streams of a denoiser nobody described."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from dit_accel.errors import UnsupportedModelError
from dit_accel.families.base import Family, LatentLayout, SiteSpec, Stack, config_of
from dit_accel.families.discovered_unet import discovered_unet_layout, is_unet
from dit_accel.families.guessed_inputs import guessed_inputs
from dit_accel.families.leaves import leaf_specs
from dit_accel.families.source import first_mentions, parameter_names, residual_streams

# A denoiser is told how noisy its input is; a text encoder or an autoencoder is not.
_TIME_NAMES = frozenset(("timestep", "timesteps", "t", "time", "sigma", "noise_level", "t_emb", "timestep_r"))
_TIME_WORDS = ("timestep", "sigma")
_TEXT_WORDS = (
    "encoder_hidden_states", "cap_feats", "context", "txt", "prompt", "text", "class_labels", "input_ids", "pooled",
    "clip_", "proj_embedding", "global_hidden_states", "image_embeds",
)  # fmt: skip
_NO_TEXT_WORDS = ("mask", "index", "timestep", "kwargs", "return", "scale", "length", "shape")


def discover_family(model: nn.Module) -> Family:
    """Describe an unknown denoiser.

    What is found, and how:

    - *Denoiser*: ``forward`` takes a timestep.
    - *UNet*: lists called ``down_blocks`` and ``up_blocks``; see :mod:`dit_accel.families.discovered_unet`.
    - *Stacks*: any ``ModuleList`` of which a member holds an attention, in the order in which ``forward`` mentions
      them. Refiners of the text or of the noisy tokens (Lumina 2, Z-Image) are stacks too.
    - *Leaf sites*: the attentions and feed-forwards of a block, inside wrappers too (HiDream), called at most once per
      call of the block. No readers are named and nothing is called invariant: both need proof.
    - *Streams*: names that ``forward`` takes, adds to and returns. When the source does not show this for every
      returned value, the block is no site of its own.

    All of it is a guess until the first call, which drops the sites that do not fit (:mod:`dit_accel.left_out`).

    Raises:
        UnsupportedModelError: No timestep, or no attention in any list of blocks.
    """
    name = type(model).__name__
    taken = parameter_names(type(model))
    if not _takes_time(taken):
        raise UnsupportedModelError(
            f"{name} is no denoiser that can be discovered, for its forward takes no timestep (looked for "
            f"{', '.join(sorted(_TIME_NAMES))}; found {', '.join(taken) or 'no named arguments'}): use it as it is, "
            "or register a family if it denoises after all."
        )
    unet = is_unet(model)
    stacks = () if unet else _stacks(model)
    if not stacks and not unet:
        lists = [path for path, module in model.named_children() if isinstance(module, nn.ModuleList)]
        raise UnsupportedModelError(
            f"{name} has no stack of attention blocks (looked for a ModuleList of blocks that hold a module whose "
            f"class or name says attention; found {', '.join(lists) or 'no ModuleList'}): register a family that says "
            "where its blocks are."
        )
    text = _text_names(taken)
    kinds = {spec.kind for stack in stacks for spec in stack.sites}
    crossing = unet or ("cross_attn" in kinds and "joint_attn" not in kinds)
    distilled = bool(config_of(model).get("guidance_embeds"))
    return Family(
        name=f"discovered:{name}",
        model_classes=(name,),
        stacks=stacks,
        guidance="distilled" if distilled else "unknown",
        conditioning=text,
        text="none" if not text else "cross" if crossing else "unknown",
        latent_layout=_latent_layout(model, taken),
        patch=_patch,
        make_inputs=guessed_inputs,
        layout=discovered_unet_layout if unet else None,
        notes=(
            "Discovered, not described: where text tokens sit and how guidance is run are not known.",
            "What the first call shows not to fit is left out and computed; summary() names it.",
        ),
    )


def _takes_time(taken: tuple[str, ...]) -> bool:
    return any(name in _TIME_NAMES or any(word in name for word in _TIME_WORDS) for name in taken)


def _text_names(taken: tuple[str, ...]) -> tuple[str, ...]:
    """Parameters that carry the prompt, most telling first; those that say where it is or how long are none."""
    found = [
        (place, name)
        for name in taken
        for place, word in enumerate(_TEXT_WORDS)
        if word in name and not any(no in name for no in _NO_TEXT_WORDS)
    ]
    return tuple(dict.fromkeys(name for _, name in sorted(found, key=lambda item: item[0])))


def _patch(config: Mapping[str, Any]) -> tuple[int, int, int]:
    size = _whole(config.get("patch_size") or config.get("all_patch_size"))
    if len(size) == 3:
        return (size[0], size[1], size[2])
    frames = _whole(config.get("patch_size_t") or config.get("all_f_patch_size"))
    return (frames[0], size[0], size[-1])


def _whole(value: Any) -> tuple[int, ...]:
    sizes = tuple(value) if isinstance(value, list | tuple) else (value,)
    return sizes if sizes and all(isinstance(size, int) and size > 0 for size in sizes) else (1,)


def _latent_layout(model: nn.Module, taken: tuple[str, ...]) -> LatentLayout:
    if taken and taken[0] == "x" and "cap_feats" in taken:
        return "list"
    if "img_ids" in taken or "img_shapes" in taken:
        return "BNC"
    name = type(model).__name__
    if "SpatioTemporal" in name:
        return "BFCHW"
    return "BCFHW" if "3D" in name or "Motion" in name else "BCHW"


def _stacks(model: nn.Module) -> tuple[Stack, ...]:
    """One for every list of blocks that is not inside a block of another one."""
    found: list[tuple[str, Stack]] = []
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or any(path.startswith(f"{outer}.") for outer, _ in found):
            continue
        stack = _stack(path, module)
        if stack is not None:
            found.append((path, stack))
    order = first_mentions(type(model), tuple(dict.fromkeys(path.split(".")[0] for path, _ in found)))
    return tuple(stack for _, stack in sorted(found, key=lambda item: order.index(item[0].split(".")[0])))


def _stack(path: str, blocks: nn.ModuleList) -> Stack | None:
    members = list(blocks)
    if not members or any(isinstance(block, nn.ModuleList) for block in members):
        return None
    found = [leaf_specs(block) for block in members]
    if not any(spec.kind.endswith("attn") for specs in found for spec in specs):
        return None
    # The last block may lack a site (a text feed-forward); sites that a block lacks are left out when binding.
    sites: dict[str, SiteSpec] = {}
    for specs in found:
        for spec in specs:
            sites.setdefault(spec.path, spec)
    like = len({type(block) for block in members}) == 1
    streams = residual_streams(type(members[0])) if like else ()
    return Stack(path=path, alias=path, streams=streams, sites=tuple(sites.values()))
