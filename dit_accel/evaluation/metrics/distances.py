"""Fréchet and kernel distance of generated images to a named real set, each named by its feature network."""

from typing import Any

import torch

from dit_accel.errors import ConfigError
from dit_accel.evaluation.metrics.frechet import frechet_distance
from dit_accel.evaluation.metrics.kernel_distance import kernel_distance
from dit_accel.evaluation.metrics.networks import LoadedNetwork
from dit_accel.evaluation.reports.records import Distance

FEW_IMAGES = 10_000  # below, the Fréchet distance is known to mislead


def set_distances(
    network: LoadedNetwork, real: torch.Tensor, generated: torch.Tensor, *, reference: str
) -> tuple[Distance, ...]:
    """Both distances of two sets of features.

    Args:
        network: Whose features they are.
        real: Features [M, D] of the real images.
        generated: Features [N, D] of the generated ones.
        reference: What the real images are, in words: a distance to a set without a name means nothing.

    Raises:
        ConfigError: There is no such name, or the features are not this network's.
        MissingDependencyError: torchmetrics is not installed.
    """
    facts = network.facts
    if not reference.strip():
        raise ConfigError("a distance needs the name of the real set it is a distance to")
    if real.shape[-1] != facts.dim or generated.shape[-1] != facts.dim:
        raise ConfigError(
            f"{facts.name} has {facts.dim} features an image, got {real.shape[-1]} and {generated.shape[-1]}"
        )
    common: dict[str, Any] = {
        "network": facts.name,
        "weights_sha256": network.weights_sha256,
        "resize": facts.resize,
        "crop": facts.crop,
        "reference": reference,
        "n_real": len(real),
        "n_generated": len(generated),
    }
    kernel = kernel_distance(real, generated)
    return (
        Distance(name=facts.frechet_name, value=frechet_distance(real, generated), **common),
        Distance(
            name=facts.kernel_name,
            value=kernel.value,
            spread=kernel.spread,
            blocks=kernel.blocks,
            block_size=kernel.block_size,
            **common,
        ),
    )


def distance_notes(distances: tuple[Distance, ...]) -> tuple[str, ...]:
    """What a reader must know of Fréchet distances on few images; the kernel distance has no such bias."""
    notes = []
    for distance in distances:
        fewest = min(distance.n_real, distance.n_generated)
        if distance.spread is None and fewest < FEW_IMAGES:
            notes.append(
                f"{distance.name} on {fewest} images is biased upwards (below {FEW_IMAGES}): compare only values on "
                "as many images, or read the kernel distance"
            )
    return tuple(dict.fromkeys(notes))
