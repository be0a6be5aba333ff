"""Which scheme each layer of a denoiser gets under a plan."""

from dataclasses import replace
from fnmatch import fnmatchcase

from torch import nn

from dit_accel.errors import ConfigError, did_you_mean
from dit_accel.families.targets import Target
from dit_accel.passes.quantize.config import QuantizeConfig, scheme_of
from dit_accel.passes.quantize.conv import PARTS, why_not
from dit_accel.passes.quantize.roles import Found, layers_of
from dit_accel.passes.quantize.scheme import QuantScheme

Chosen = tuple[Found, QuantScheme]


def chosen_layers(target: Target, config: QuantizeConfig) -> list[Chosen]:
    """The layers that are quantised, each with its scheme, in the order of the modules."""
    found = []
    for layer in layers_of(target):
        scheme = scheme_for(layer, target.name, config)
        if scheme is not None:
            found.append((layer, scheme))
    return found


def scheme_for(layer: Found, denoiser: str, config: QuantizeConfig) -> QuantScheme | None:
    """The scheme of one layer; ``None``: it stays as it is."""
    name = full_name(denoiser, layer.path)
    text = config.layers.get(name)
    if text is None:
        text = next((text for pattern, text in config.layers.items() if fnmatchcase(name, pattern)), None)
    if text is not None:
        return scheme_of(text)
    if layer.role == "edge":
        return None
    if isinstance(layer.layer, nn.Conv2d):
        return scheme_of(config.conv_scheme) if why_not(layer.layer) is None else None
    return scheme_of(config.modulation_scheme if layer.role == "modulation" else config.bits)


def full_name(denoiser: str, path: str) -> str:
    """What a layer is called in plans: ``transformer.blocks.0.attn1.to_q``, adapters around it left out."""
    return f"{denoiser}.{path.removesuffix('.base_layer')}"


def whole(name: str) -> str:
    """The layer that a stored name is of: of a convolution in two parts that convolution."""
    head, _, part = name.rpartition(".")
    return head if part in PARTS else name


def unmatched(config: QuantizeConfig, target: Target) -> str | None:
    """What a plan says of layers that are not there, in words; what another denoiser is told is for that one."""
    known = [full_name(target.name, layer.path) for layer in layers_of(target)]
    for pattern in config.layers:
        matches = pattern in known or any(fnmatchcase(name, pattern) for name in known)
        if not matches and pattern.partition(".")[0] not in target.beside:
            return f"no layer matches '{pattern}'.{did_you_mean(pattern, known)}"
    stored = {whole(name.rpartition(".")[0]) for name in config.stored}
    elsewhere = tuple(f"{part}." for part in (*config.components, *target.beside))
    missing = sorted(name for name in stored.difference(known) if not name.startswith(elsewhere))
    return f"something is stored of a layer '{missing[0]}' that it does not have" if missing else None


def check_scales(layer: str, scheme: QuantScheme, config: QuantizeConfig) -> None:
    """Refuse fixed scales and learned transforms that nobody has found.

    Raises:
        ConfigError: Names the layer.
    """
    if scheme.flat and any(config.of_layer(layer, side) is None for side in ("left", "right")):
        raise ConfigError(
            f"'{layer}' is to have a learned transform ({scheme}) and none is stored; dit-accel quantize finds it, or "
            f"use '{replace(scheme, flat=False, rotate=True)}'"
        )
    if scheme.is_static and config.of_layer(layer, "act_scale") is None:
        raise ConfigError(
            f"'{layer}' is to have fixed scales ({scheme}) and none are stored; dit-accel quantize finds them, or use "
            f"'{replace(scheme, granularity='token')}'"
        )
