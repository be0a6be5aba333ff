"""The judge's training: changed copies stay pictures, and made-up features are learned, twice alike."""

import pytest
import torch
from sample_pictures import pictures

from dit_accel.evaluation.metrics.features import FEATURE_DIM
from dit_accel.training import augment
from dit_accel.training.concepts import Concept, caption
from dit_accel.training.two_tower import TwoTowerData, TwoTowerRecipe, train_two_tower


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("change", [augment.shift_and_scale, augment.add_noise, augment.blur, augment.jpeg])
def test_a_change_keeps_shape_and_range_and_is_seeded(change) -> None:
    images = pictures(count=4)
    out = change(images.clone(), seeded())
    assert out.shape == images.shape and float(out.min()) >= 0 and float(out.max()) <= 1 + 1e-5
    assert torch.equal(out, change(images.clone(), seeded()))
    assert 0 < float((out - images).abs().mean()) < 0.5


def test_the_ground_that_comes_into_view_is_white() -> None:
    out = augment.shift_and_scale(torch.ones(8, 3, 16, 16), seeded())
    assert torch.allclose(out, torch.ones_like(out))


def test_variants_leave_the_originals_alone() -> None:
    images = pictures(count=12)
    before = images.clone()
    out = augment.draw_variant(images, None, seeded())
    assert torch.equal(images, before)
    assert out.shape == images.shape and 0 <= float(out.min()) <= float(out.max()) <= 1


def test_made_up_concepts_are_learned_and_training_is_repeatable() -> None:
    concepts = [Concept(code=str(k), name=f"thing{k} kind{k % 3}", aliases=(), category="x") for k in range(12)]
    centres = torch.randn(12, 1, FEATURE_DIM, generator=seeded())
    features = centres + 0.3 * torch.randn(12, 4, FEATURE_DIM, generator=seeded(1))
    data = TwoTowerData(concepts=concepts, features=features, images=torch.zeros(12, 3, 8, 8))
    recipe = TwoTowerRecipe(dim=16, steps=80, batch_size=12)
    first, second = (train_two_tower(data, recipe) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    fresh = centres[:, 0] + 0.3 * torch.randn(12, FEATURE_DIM, generator=seeded(2))
    texts = first.embed_words(first.indicators([caption(concept.name) for concept in concepts]))
    assert bool(((first.embed_features(fresh) @ texts.T).argmax(dim=1) == torch.arange(12)).all())
