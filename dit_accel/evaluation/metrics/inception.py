"""InceptionV3 features, the only ones on which a Fréchet distance is an FID (Heusel et al. 2017).

The network is torch-fidelity's, whose features agree with the original TensorFlow graph; the weights file is checked
by :mod:`.networks` before it gets here.
"""

from pathlib import Path

import torch

from dit_accel.errors import MissingDependencyError

FEATURES = "2048"


class InceptionFeatures(torch.nn.Module):
    """Last pooled features of InceptionV3, frozen.

    Args:
        weights: The weights file.

    Raises:
        MissingDependencyError: torch-fidelity is not installed.
    """

    def __init__(self, weights: Path) -> None:
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise MissingDependencyError.for_extra("torch-fidelity", "eval", "FID") from error
        self.network = FeatureExtractorInceptionV3("inception-v3-compat", [FEATURES], str(weights))
        self.register_buffer("anchor", torch.zeros(()), persistent=False)  # tells extract_features the device

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute features.

        Args:
            images: float in [-1, 1], shape [B, 3, H, W], any size; rounded to 8 bit, which is what the network takes.

        Returns:
            float32 [B, 2048].
        """
        levels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        (features,) = self.network(levels)
        result: torch.Tensor = features
        return result
