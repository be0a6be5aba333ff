"""Fréchet distance between two sets of image features."""

import torch

from dit_accel.errors import ConfigError, MissingDependencyError

NAME_EFFNET_LITE0 = "FD-EffNetLite0"
"""The name under which the distance on EfficientNet-Lite0 features is reported; never "FID"."""


def frechet_distance(real: torch.Tensor, generated: torch.Tensor) -> float:
    """Squared Fréchet distance of Gaussians fitted to two feature sets (Heusel et al. 2017, eq. 6).

    Computed by torchmetrics in float64. With fewer images than features the covariance is singular and the value is
    biased upwards: compare only values of equal set sizes.

    Args:
        real: Features [M, D].
        generated: Features [N, D].

    Raises:
        ConfigError: Shapes do not match, or a set has fewer than two images.
        MissingDependencyError: torchmetrics is not installed.
    """
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
    except ImportError as error:
        raise MissingDependencyError.for_extra("torchmetrics", "eval", "The Fréchet distance") from error
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise ConfigError(f"Want features [M, D] and [N, D], got {tuple(real.shape)} and {tuple(generated.shape)}.")
    if min(len(real), len(generated)) < 2:
        raise ConfigError(f"Want at least two images in each set, got {len(real)} and {len(generated)}.")
    metric = FrechetInceptionDistance(feature=_Given(real.shape[1]))
    metric.set_dtype(torch.float64)
    metric.update(real.double(), real=True)
    metric.update(generated.double(), real=False)
    return float(metric.compute())


class _Given(torch.nn.Module):
    """Stands where torchmetrics expects a network: the inputs are features already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features
