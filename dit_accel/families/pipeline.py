"""Which components of a pipeline denoise, and at what scale its autoencoder works."""

import inspect
from typing import Any

from torch import nn

from dit_accel.errors import UnsupportedModelError
from dit_accel.families.base import Family, config_of
from dit_accel.families.catalog import find_family, resolve_family, unwrapped

# What a denoiser is called that is given without a pipeline.
BARE = "denoiser"

# In the order in which a pipeline uses them. Stage two of a pair (Wan 2.2, Kandinsky) comes second.
_NAMES = ("prior", "transformer", "unet", "transformer_2", "unet_2", "transformer_3", "dit")


def find_denoisers(pipe: Any) -> tuple[tuple[str, nn.Module], ...]:
    """The denoisers of a pipeline: attribute name, and the module without compile or adapter wrappers, of each.

    Args:
        pipe: A diffusers pipeline, or a denoiser alone, which is then called :data:`BARE`.

    Raises:
        UnsupportedModelError: There is none; the message lists the components that were found.
    """
    if isinstance(pipe, nn.Module):
        return ((BARE, unwrapped(pipe)),)
    components: dict[str, Any] = getattr(pipe, "components", None) or {}
    found = {name: components[name] for name in _NAMES if isinstance(components.get(name), nn.Module)}
    for name, component in components.items():
        # A denoiser under another name counts when its class is known for one.
        if name not in found and isinstance(component, nn.Module) and find_family(component) is not None:
            found[name] = component
    if not found:
        found = _under_other_names(components)
    if not found:
        parts = ", ".join(f"{name}: {type(part).__name__}" for name, part in components.items() if part is not None)
        raise UnsupportedModelError(
            f"{type(pipe).__name__} has no denoiser to accelerate (looked for a component called {', '.join(_NAMES)}, "
            f"or one that takes a timestep; found {parts or 'no components'}): use it as it is, or pass the denoiser "
            "module itself with its scheduler."
        )
    return tuple((name, unwrapped(module)) for name, module in found.items())


def _under_other_names(components: dict[str, Any]) -> dict[str, nn.Module]:
    """Models that discovery takes for denoisers (Stable Cascade calls its own ``decoder``).

    A ControlNet takes a timestep too, and is none. What belongs to the prior of a combined pipeline has a scheduler of
    its own, which drives nothing here.
    """
    found = {}
    for name, component in components.items():
        if not isinstance(component, nn.Module) or "control" in name or name.startswith("prior_"):
            continue
        try:
            resolve_family(unwrapped(component))
        except UnsupportedModelError:
            continue
        found[name] = component
    return found


def vae_scale_of(pipe: Any, family: Family) -> tuple[int, int]:
    """Pixels per latent cell (frames, height and width) of a pipeline's own autoencoder, else the family's usual."""
    temporal, spatial = family.vae_scale
    for name in ("vae_scale_factor_spatial", "vae_spatial_compression_ratio", "vae_scale_factor"):
        value = getattr(pipe, name, None)
        if isinstance(value, int):
            spatial = value
            break
    for name in ("vae_scale_factor_temporal", "vae_temporal_compression_ratio"):
        value = getattr(pipe, name, None)
        if isinstance(value, int):
            temporal = value
            break
    return temporal, spatial


def call_default(pipe: Any, name: str) -> int | None:
    """Default of a whole-number argument of the pipeline's call, for example ``"height"``; ``None``: it has none."""
    parameter = inspect.signature(type(pipe).__call__).parameters.get(name)
    value = None if parameter is None else parameter.default
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def default_px_of(model: nn.Module, family: Family, vae_scale: tuple[int, int]) -> int:
    """Height and width in pixels that a denoiser is run at by default."""
    size = config_of(model).get("sample_size")
    if isinstance(size, int) and family.latent_layout == "BCHW":
        return size * vae_scale[1]
    return family.default_px
