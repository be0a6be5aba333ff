"""Judges of alignment: the two big ones with stand-ins of the same interface, without weights or network."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

from dit_accel.errors import ConfigError, MissingDependencyError
from dit_accel.evaluation.metrics.alignment import ImageRewardScore, OpenClipScore, alignment

COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}


def plain(*names: str) -> torch.Tensor:
    return torch.stack([torch.tensor(COLOURS[name]).view(3, 1, 1).expand(3, 16, 16) for name in names])


def mean_colour(picture: Image.Image) -> torch.Tensor:
    assert isinstance(picture, Image.Image) and picture.mode == "RGB"
    return torch.tensor(picture.resize((1, 1)).getpixel((0, 0)), dtype=torch.float32) / 255


class FakeClip(torch.nn.Module):
    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels * 3 - 1  # not of unit length, and a wrong colour's cosine is negative

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.tensor(list(COLOURS.values()))[tokens[:, 0]] * 3 - 1


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "clip.pt"
    path.write_bytes(b"weights")
    return path


@pytest.fixture
def open_clip(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    def create(architecture: str, pretrained: str):
        assert (architecture, pretrained) == ("ViT-L-14", str(checkpoint))
        return FakeClip(), None, mean_colour

    def tokenizer(architecture: str):
        return lambda texts: torch.tensor([[list(COLOURS).index(text)] for text in texts])

    stub = ModuleType("open_clip")
    stub.list_models = lambda: ["ViT-B-32", "ViT-L-14"]
    stub.create_model_and_transforms, stub.get_tokenizer = create, tokenizer
    monkeypatch.setitem(sys.modules, "open_clip", stub)


@pytest.mark.usefixtures("open_clip")
def test_clip_score_is_a_hundred_cosines_and_never_negative(checkpoint: Path) -> None:
    judge = OpenClipScore("ViT-L-14", checkpoint)
    right = judge.scores(plain("red", "blue"), ["red", "blue"])
    assert right == pytest.approx((100, 100))
    assert judge.scores(plain("red", "blue"), ["blue", "red"]) == pytest.approx((0, 0))
    result = alignment(judge, plain("red", "green", "blue"), ["red", "green", "red"])
    assert (result.name, result.scores.n) == ("CLIP score", 3)
    assert "ViT-L-14" in result.model and "sha256" in result.model


@pytest.mark.usefixtures("open_clip")
def test_many_images_are_scored_in_batches(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dit_accel.evaluation.metrics.alignment.IMAGES_AT_ONCE", 2)
    names = ["red", "green", "blue", "red", "green"]
    assert OpenClipScore("ViT-L-14", checkpoint).scores(plain(*names), names) == pytest.approx((100,) * 5)


@pytest.mark.usefixtures("open_clip")
def test_unknown_architecture_and_missing_checkpoint(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="no architecture 'ViT-X'"):
        OpenClipScore("ViT-X", checkpoint)
    with pytest.raises(ConfigError, match=r"a checkpoint of ViT-L-14"):
        OpenClipScore("ViT-L-14", checkpoint.with_name("none.pt"))


def test_missing_open_clip_names_the_extra(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(MissingDependencyError, match=r"open-clip-torch.*dit-accel\[eval\]"):
        OpenClipScore("ViT-L-14", checkpoint)


class FakeReward:
    """As ``ImageReward.load`` returns: ``score(prompt, picture)`` to a number."""

    def score(self, prompt: str, image: Image.Image) -> float:
        return float(mean_colour(image) @ torch.tensor(COLOURS[prompt])) - 0.5


def test_image_reward_scores_each_pair(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    stub = ModuleType("ImageReward")

    def load(name: str, device: str, med_config: str) -> FakeReward:
        seen.update(name=name, device=device, med_config=med_config)
        return FakeReward()

    stub.load = load
    monkeypatch.setitem(sys.modules, "ImageReward", stub)
    med_config = checkpoint.with_name("med_config.json")
    with pytest.raises(ConfigError, match=r"med_config\.json"):
        ImageRewardScore(checkpoint, med_config)
    med_config.write_text("{}")
    judge = ImageRewardScore(checkpoint, med_config)
    assert seen == {"name": str(checkpoint), "device": "cpu", "med_config": str(med_config)}
    right, swapped = (judge.scores(plain("red", "blue"), texts) for texts in (["red", "blue"], ["blue", "red"]))
    assert right == (0.5, 0.5) and swapped == (-0.5, -0.5)
    monkeypatch.setitem(sys.modules, "ImageReward", None)
    with pytest.raises(MissingDependencyError, match="environment of its own"):
        ImageRewardScore(checkpoint, med_config)


def test_captions_and_images_must_match() -> None:
    class Judge:
        name, unit, model = "any", "any", "any"

        def scores(self, images: torch.Tensor, texts: Sequence[str]) -> tuple[float, ...]:
            raise AssertionError("not reached")

    for texts in ([], ["one"], ["one", "two", "three"]):
        with pytest.raises(ConfigError, match="a caption for each image"):
            alignment(Judge(), plain("red", "blue"), texts)
