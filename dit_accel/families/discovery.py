"""Automatic discovery: the blocks, leaf sites and residual streams of a transformer denoiser nobody described."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from dit_accel.errors import UnsupportedModelError
from dit_accel.families.base import Family, LatentLayout, SiteSpec, Stack, config_of
from dit_accel.families.guessed_inputs import guessed_inputs
from dit_accel.families.source import first_mentions, most_calls, parameter_names, residual_streams

# A denoiser is told how noisy its input is; a text encoder or an autoencoder is not.
_TIME_NAMES = frozenset(("timestep", "timesteps", "t", "time", "sigma", "noise_level", "t_emb", "timestep_r"))
_TEXT_NAMES = ("encoder_hidden_states", "cap_feats", "context", "txt", "prompt_embeds", "text_embeds", "class_labels")
_FF_NAMES = ("ff", "ffn", "mlp", "feed_forward", "feedforward", "img_mlp", "txt_mlp")
_CONTEXT_WORDS = ("context", "txt", "text", "encoder", "_c")


def discover_family(model: nn.Module) -> Family:
    """Describe an unknown transformer denoiser.

    What is found, and how:

    - *Denoiser*: ``forward`` takes a timestep.
    - *Stacks*: ``ModuleList`` attributes whose every member holds an attention module, in the order in which
      ``forward`` mentions them. Refiners of the text or of the noisy tokens (Lumina 2, Z-Image) are stacks too.
    - *Leaf sites*: the direct children of a block that are attentions or feed-forwards, called at most once per call
      of the block. No readers are named and nothing is called invariant: both need proof.
    - *Streams*: names that ``forward`` takes, adds to and returns. When the source does not show this for every
      returned value, the block is no site of its own.

    Raises:
        UnsupportedModelError: No timestep, or no stack of attention blocks.
    """
    name = type(model).__name__
    taken = parameter_names(type(model))
    if not _TIME_NAMES & set(taken):
        raise UnsupportedModelError(
            f"{name} is not a denoiser we can describe: its forward takes no timestep "
            f"(looked for {', '.join(sorted(_TIME_NAMES))}; found {', '.join(taken) or 'no named arguments'})."
        )
    stacks = _stacks(model)
    if not stacks:
        lists = [path for path, module in model.named_children() if isinstance(module, nn.ModuleList)]
        raise UnsupportedModelError(
            f"{name} has no stack of attention blocks: looked for a ModuleList of like blocks, each holding a module "
            f"whose class or name says attention; found {', '.join(lists) or 'no ModuleList'}."
        )
    text = tuple(parameter for parameter in _TEXT_NAMES if parameter in taken)
    kinds = {spec.kind for stack in stacks for spec in stack.sites}
    crossing = "cross_attn" in kinds and "joint_attn" not in kinds
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
        notes=("Discovered, not described: where text tokens sit and how guidance is run are not known.",),
    )


def _patch(config: Mapping[str, Any]) -> tuple[int, int, int]:
    size = config.get("patch_size", config.get("all_patch_size", 1))
    sizes = tuple(size) if isinstance(size, list | tuple) else (size,)
    frames = config.get("patch_size_t", config.get("all_f_patch_size", 1)) or 1
    if len(sizes) == 3:
        return (int(sizes[0]), int(sizes[1]), int(sizes[2]))
    frames = frames[0] if isinstance(frames, list | tuple) else frames
    return (int(frames), int(sizes[0]), int(sizes[-1]))


def _latent_layout(model: nn.Module, taken: tuple[str, ...]) -> LatentLayout:
    if taken and taken[0] == "x" and "cap_feats" in taken:
        return "list"
    if "img_ids" in taken or "img_shapes" in taken:
        return "BNC"
    return "BCFHW" if "3D" in type(model).__name__ else "BCHW"


def _stacks(model: nn.Module) -> tuple[Stack, ...]:
    lists = {path: module for path, module in model.named_children() if isinstance(module, nn.ModuleList)}
    order = first_mentions(type(model), tuple(lists))
    stacks = (_stack(path, lists[path]) for path in order)
    return tuple(stack for stack in stacks if stack is not None)


def _stack(path: str, blocks: nn.ModuleList) -> Stack | None:
    members = list(blocks)
    if not members or len({type(block) for block in members}) != 1:
        return None
    found = [_sites(block) for block in members]
    if any(not any(spec.kind.endswith("attn") for spec in specs) for specs in found):
        return None
    # The last block may lack a site (a text feed-forward); sites that a block lacks are left out when binding.
    sites = tuple({spec.path: spec for specs in found for spec in specs}.values())
    return Stack(path=path, alias=path, streams=residual_streams(type(members[0])), sites=sites)


def _sites(block: nn.Module) -> list[SiteSpec]:
    specs = []
    for name, child in block.named_children():
        kind = _kind(name, child)
        if kind is not None and most_calls(type(block), name) == 1:
            specs.append(SiteSpec(path=name, kind=kind))
    return specs


def _kind(name: str, module: nn.Module) -> str | None:
    """What a child of a block computes, by its name and its class; ``None`` for what is no site."""
    lowered, cls = name.lower(), type(module).__name__.lower()
    if "norm" in lowered or "norm" in cls or not any(True for _ in module.parameters()):
        return None
    if "attention" in cls or "attn" in cls or lowered.startswith(("attn", "attention", "self_attn", "cross_attn")):
        if "cross" in lowered or getattr(module, "is_cross_attention", False):
            return "cross_attn"
        return "joint_attn" if getattr(module, "add_k_proj", None) is not None else "self_attn"
    stem = lowered
    context = False
    for word in _CONTEXT_WORDS:
        if stem.endswith(word) or stem.startswith(word):
            context = True
            stem = stem.removesuffix(word).removeprefix(word).strip("_")
    if stem in _FF_NAMES or lowered in _FF_NAMES or "feedforward" in cls or cls.endswith("mlp"):
        return "ff_context" if context or lowered.startswith("txt") else "ff"
    return None
