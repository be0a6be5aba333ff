"""Perceptual distances to the plain run: LPIPS and ST-LPIPS, each under its own name, each only where its weights are.

Nothing is downloaded. LPIPS is torchmetrics', on torchvision's AlexNet; ST-LPIPS is :mod:`.st_lpips`.
"""

import functools
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_accel.errors import ConfigError, MissingDependencyError, did_you_mean

if TYPE_CHECKING:
    import torch

PERCEPTUAL = ("lpips", "st_lpips")
ALEXNET_FILE = "alexnet-owt-7be5be79.pth"  # torchvision's AlexNet_Weights.IMAGENET1K_V1, where torch.hub keeps files
MIN_PX = {"lpips": 31, "st_lpips": 21}  # the networks' pooling takes so much

PerceptualDistance = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]
"""Two batches of images in [0, 1], [B, 3, H, W], to B distances; 0 is equal."""


def available_perceptual() -> tuple[str, ...]:
    """Which of ``PERCEPTUAL`` can be measured here, without a download."""
    return tuple(name for name in PERCEPTUAL if _at_hand(name))


def load_perceptual(name: str) -> PerceptualDistance:
    """A perceptual distance, its network loaded once a process.

    Args:
        name: One of ``PERCEPTUAL``.

    Raises:
        ConfigError: Another name.
        MissingDependencyError: Its package or its weights are not here; the message says what to put where.
    """
    if name not in PERCEPTUAL:
        raise ConfigError(
            f"no perceptual distance '{name}'; known: {', '.join(PERCEPTUAL)}.{did_you_mean(name, PERCEPTUAL)}"
        )
    return _lpips() if name == "lpips" else _st_lpips()


def _at_hand(name: str) -> bool:
    if name == "lpips":
        return all(find_spec(module) for module in ("torchmetrics", "torchvision")) and _alexnet_file().is_file()
    from dit_accel.evaluation.metrics.st_lpips import weights_file

    return weights_file() is not None


def _alexnet_file() -> Path:
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET_FILE


@functools.cache
def _lpips() -> PerceptualDistance:
    for module in ("torchmetrics", "torchvision"):
        if find_spec(module) is None:
            raise MissingDependencyError.for_extra(module, "eval", "LPIPS")
    if not _alexnet_file().is_file():
        raise MissingDependencyError(
            f"LPIPS needs torchvision's AlexNet, and '{_alexnet_file()}' is not there: put {ALEXNET_FILE} from "
            "download.pytorch.org/models there, or measure st_lpips, whose weights come with 'dit-accel[eval]'"
        )
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    network: Any = LearnedPerceptualImagePatchSimilarity(net_type="alex").net

    def distance(images: "torch.Tensor", reference: "torch.Tensor") -> "torch.Tensor":
        import torch

        with torch.no_grad():
            values: torch.Tensor = network(images.float(), reference.float(), normalize=True)
        return values.reshape(-1)

    return distance


@functools.cache
def _st_lpips() -> PerceptualDistance:
    from dit_accel.evaluation.metrics.st_lpips import STLPIPS

    return STLPIPS()
