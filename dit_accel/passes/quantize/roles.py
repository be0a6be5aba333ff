"""What the layers of a denoiser are for, and which of them are quantised when nobody says anything of them.

Kept as they are, as in ViDiT-Q and SVDQuant: what makes tokens out of latents, text and time, and latents out of
tokens (embedders, the last layer, first and last convolutions). They are less than one per cent of the work. The
linear layers that modulate a block see one row for each sample: they take memory and no time, so that their weights
alone are rounded.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from dit_accel.families.targets import Target

Role = Literal["block", "modulation", "edge"]
"""In a block, and sees tokens; in a block, and sees the timestep alone; everything else."""

Layer = nn.Linear | nn.Conv2d
_MODULATION = re.compile(r"norm\w*|\w*modulation|\w*_mod|mod|time_emb_proj|adaln\w*", re.IGNORECASE)
_EMBEDDER = re.compile(r"(?!time_emb_proj)\w*emb(ed|edder|edding|eddings)?(_\w+)?", re.IGNORECASE)
_EDGE_ROOT = re.compile(
    r"\w*(emb|final|proj|time|guidance|norm_out|adaln|conv_in|conv_out|context|caption)\w*", re.IGNORECASE
)
# Names of whole families whose layers the rules above would judge wrongly.
_BY_FAMILY: dict[str, dict[str, Role]] = {
    "wan_animate": {"face_encoder.*": "edge"},
    "kandinsky5": {"out_layer.*": "edge", "*_modulation.out_layer": "modulation"},
}


@dataclass(frozen=True, slots=True)
class Found:
    """A layer that could be quantised.

    Attributes:
        path: In the denoiser.
        parent: The module that holds it.
        name: Under which.
        layer: Itself.
        role: What it is for.
    """

    path: str
    parent: nn.Module
    name: str
    layer: Layer
    role: Role

    @property
    def columns(self) -> int:
        """K: products in one output."""
        return self.layer.weight[0].numel()


def layers_of(target: Target) -> Iterator[Found]:
    """Every plain linear layer and convolution of a denoiser, those inside of adapters among them.

    A layer that stands at several places is given at each; the adapters' own are not given.
    """
    return plain_layers(target.denoiser, _BY_FAMILY.get(target.family.name, {}))


def plain_layers(model: nn.Module, rules: "dict[str, Role] | None" = None) -> Iterator[Found]:
    """:func:`layers_of` for any module; the roles are those that the names of a denoiser's layers would say."""
    for path, parent in model.named_modules(remove_duplicate=False):
        if "lora_" in path:
            continue
        for name, layer in parent._modules.items():
            if type(layer) is nn.Linear or type(layer) is nn.Conv2d:
                full = f"{path}.{name}" if path else name
                yield Found(full, parent, name, layer, role_of(full, rules))


def role_of(path: str, rules: "dict[str, Role] | None" = None) -> Role:
    """The role of a layer by its path."""
    from fnmatch import fnmatchcase

    for pattern, role in (rules or {}).items():
        if fnmatchcase(path, pattern):
            return role
    parts = path.removesuffix(".base_layer").split(".")
    inside = any(part.isdigit() for part in parts)
    if not inside or _EDGE_ROOT.fullmatch(parts[0]):
        return "edge"
    if any(_EMBEDDER.fullmatch(part) for part in parts):
        return "edge"
    return "modulation" if any(_MODULATION.fullmatch(part) for part in parts) else "block"


def is_plain(layer: Layer) -> bool:
    """Whether its weight is an ordinary tensor of 16 or 32 bits, here and now, and stays here."""
    weight = layer.weight
    if type(weight.data) is not torch.Tensor or not weight.is_floating_point() or weight.device.type == "meta":
        return False
    # Group offload by leaves moves the layer itself; what took its place would not be moved.
    hooks = getattr(getattr(layer, "_diffusers_hook", None), "hooks", ())
    return not any("group_offloading" in name for name in hooks)
