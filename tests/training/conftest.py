"""Five synthetic images to train on."""

import pytest
import torch

from dit_accel.training.concepts import Concept
from dit_accel.training.datasets import TrainingSet


@pytest.fixture
def data() -> TrainingSet:
    names = ["red apple", "owl", "green tree", "blue fish", "paw prints"]
    images = torch.randint(0, 256, (5, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    concepts = [Concept(code=str(k), name=name, aliases=(), category="x") for k, name in enumerate(names)]
    return TrainingSet(images=images, concepts=concepts, styles=[None] * 5)
