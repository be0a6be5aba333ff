"""Loads the feature network and the judges that an evaluation asks for by name."""

from dataclasses import replace
from pathlib import Path

from dit_accel.errors import ConfigError, did_you_mean
from dit_accel.evaluation.metrics.alignment import ImageRewardScore, Judge, OpenClipScore
from dit_accel.evaluation.metrics.networks import LoadedNetwork, load_network
from dit_accel.evaluation.suites.protocols import CLIP, IMAGE_REWARD, INCEPTION, TWO_TOWER
from dit_accel.evaluation.suites.weight_files import CLIP_ARCHITECTURE, find_weights

JUDGES = (CLIP, IMAGE_REWARD, TWO_TOWER)


def load_feature_network(name: str, weights: Path, *, device: str = "cpu", download: bool = False) -> LoadedNetwork:
    """A feature network on a device.

    Args:
        name: A key of ``dit_accel.evaluation.metrics.networks.NETWORKS``.
        weights: Folder of weights.
        device: Where it runs.
        download: Fetch missing weights.

    Raises:
        ConfigError: Unknown name, or weights that are not this network's: then it may not be called FID.
        MissingDependencyError: Weights or a package are missing; the message says which file to put where.
    """
    file = find_weights(INCEPTION, weights, download=download) if name == INCEPTION else None
    loaded = load_network(name, file)
    return replace(loaded, module=loaded.module.to(device))


def load_judge(name: str, weights: Path, *, device: str = "cpu", download: bool = False) -> Judge:
    """A judge of alignment on a device.

    Args:
        name: One of ``JUDGES``.
        weights: Folder of weights.
        device: Where it runs.
        download: Fetch missing weights.

    Raises:
        ConfigError: Unknown name.
        MissingDependencyError: Weights or a package are missing; the message says which file to put where.
    """
    if name == CLIP:
        return OpenClipScore(CLIP_ARCHITECTURE, find_weights(CLIP, weights, download=download), device=device)
    if name == IMAGE_REWARD:
        files = [find_weights(key, weights, download=download) for key in (IMAGE_REWARD, f"{IMAGE_REWARD}-config")]
        return ImageRewardScore(*files, device=device)
    if name == TWO_TOWER:
        from dit_accel.evaluation.metrics.two_tower import EmojiTwoTower

        judge = EmojiTwoTower()
        judge.features.to(device)
        return judge
    raise ConfigError(f"no judge '{name}'.{did_you_mean(name, JUDGES)} There are: {', '.join(JUDGES)}, none.")
