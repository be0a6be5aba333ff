"""Layers of a pipeline beside its denoisers: text encoders, which may take more memory than these, and the VAE."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dit_accel.errors import ConfigError, did_you_mean
from dit_accel.passes.quantize.conv import why_not
from dit_accel.passes.quantize.layer import QuantLinear
from dit_accel.passes.quantize.roles import Found, is_plain, plain_layers


class EncoderLinear(QuantLinear):
    """A layer of a text encoder. T5 looks at the dtype of a weight that it is about to use, and leaves int8 alone."""

    @property
    def weight(self) -> Tensor:
        """Nothing, int8: enough to be asked for its dtype, and nothing to be changed in place."""
        return torch.empty(0, dtype=torch.int8, device=self.values.device)


def component_of(pipe: Any, path: str) -> nn.Module:
    """A part of a pipeline: ``text_encoder``, ``vae.decoder``.

    Raises:
        ConfigError: There is none, or it is no module.
    """
    part = pipe
    for name in path.split("."):
        part = getattr(part, name, None)
    if not isinstance(part, nn.Module):
        known = [name for name, each in getattr(pipe, "components", {}).items() if isinstance(each, nn.Module)]
        raise ConfigError(
            f"'quantize': this pipeline has no part '{path}'.{did_you_mean(path, known)} It has: {', '.join(known)}"
        )
    return part


def layers_of_component(pipe: Any, path: str) -> Iterator[tuple[str, Found]]:
    """The linear layers and convolutions inside of its blocks, by name in plans.

    Those quantised already are left out, and convolutions that cannot be.

    Raises:
        ConfigError: One is offloaded or quantised by others.
    """
    for found in plain_layers(component_of(pipe, path)):
        if not any(part.isdigit() for part in found.path.split(".")):
            continue
        if isinstance(found.layer, nn.Conv2d) and why_not(found.layer) is not None:
            continue
        if not is_plain(found.layer):
            raise ConfigError(
                f"'quantize': '{path}.{found.path}' is offloaded or quantised already: apply it first, then offload"
            )
        yield f"{path}.{found.path}", found
