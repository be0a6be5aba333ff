"""Five synthetic images to train on."""

import pytest
from tiny_recipes import images

from dit_accel.training.training_set import TrainingSet


@pytest.fixture
def data() -> TrainingSet:
    return images()
