"""``emoji-two-tower``: does an emoji picture show what its caption says? Our own small model, and not CLIP.

Made like CLIP (Radford et al. 2021): one tower for images, one for text, cosine similarity between them. The image
tower is EfficientNet-Lite0, frozen, and one linear layer; the text tower is a sum of word embeddings, so word order
and words it never saw mean nothing to it. ``dit_accel.training.two_tower`` trained it on captioned emoji: it is a
judge of emoji-like pictures only, and its values compare with nothing but its own.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from dit_accel.errors import ConfigError
from dit_accel.evaluation.metrics.features import FEATURE_DIM, EffNetLite0Features, extract_features

NAME = "emoji-two-tower"
FORMAT = "dit-accel/two-tower"
VERSION = 1
FOLDER = Path(__file__).resolve().parents[1] / "judges" / NAME
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
FIRST_TEMPERATURE = 0.07
STOP_WORDS = frozenset(("a", "an", "the", "of", "emoji", "picture"))


class TwoTower(torch.nn.Module):
    """Both towers behind the frozen image network.

    Args:
        vocabulary: The words it knows.
        dim: Width of the common space.
        dropout: Of the standardised image features, in training only.
    """

    def __init__(self, vocabulary: Sequence[str], *, dim: int = 256, dropout: float = 0.3) -> None:
        super().__init__()
        self.vocabulary = tuple(vocabulary)
        self.dim = dim
        self._index = {word: k for k, word in enumerate(self.vocabulary)}
        self.words = torch.nn.Linear(len(self.vocabulary), dim, bias=False)
        self.image = torch.nn.Linear(FEATURE_DIM, dim)
        self.dropout = torch.nn.Dropout(dropout)
        self.log_scale = torch.nn.Parameter(torch.tensor(1 / FIRST_TEMPERATURE).log())
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", torch.zeros(FEATURE_DIM))
        self.register_buffer("std", torch.ones(FEATURE_DIM))

    def embed_features(self, features: torch.Tensor) -> torch.Tensor:
        """Unit vectors [M, dim] of EfficientNet-Lite0 features [M, 1280]."""
        return F.normalize(self.image(self.dropout((features - self.mean) / self.std)), dim=1)

    def embed_words(self, counts: torch.Tensor) -> torch.Tensor:
        """Unit vectors [M, dim] of captions given as word indicators [M, V]."""
        return F.normalize(self.words(counts), dim=1)

    def indicators(self, texts: Sequence[str]) -> torch.Tensor:
        """Which words of the vocabulary each text has, float32 [M, V]."""
        rows = torch.zeros(len(texts), len(self.vocabulary))
        for row, text in zip(rows, texts, strict=True):
            row[[self._index[word] for word in split_words(text) if word in self._index]] = 1
        return rows

    def save(self, folder: Path, facts: Mapping[str, object]) -> None:
        """Write ``config.json`` and float16 ``model.safetensors``; ``facts`` go into the config."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        config = {"format": FORMAT, "version": VERSION, "name": NAME, "dim": self.dim, "facts": dict(facts)}
        text = json.dumps({**config, "vocabulary": self.vocabulary}, indent=None)
        (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
        save_file({k: v.detach().half().contiguous() for k, v in self.state_dict().items()}, folder / WEIGHTS_FILE)

    @classmethod
    def load(cls, folder: Path = FOLDER) -> "TwoTower":
        """Read what :meth:`save` wrote, in float32 and frozen.

        Raises:
            ConfigError: The folder holds no such model, or another version of it.
        """
        from safetensors.torch import load_file

        try:
            config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
            weights = load_file(folder / WEIGHTS_FILE)
        except (OSError, ValueError) as error:
            raise ConfigError(f"no {NAME} model in '{folder}': {error}") from error
        if config.get("format") != FORMAT or config.get("version") != VERSION:
            raise ConfigError(f"'{folder}' is not a {FORMAT} model of version {VERSION}")
        model = cls(config["vocabulary"], dim=config["dim"])
        model.load_state_dict({name: weight.float() for name, weight in weights.items()})
        return model.requires_grad_(False).eval()


class EmojiTwoTower:
    """Alignment of emoji pictures with their captions by the model that ships here.

    Args:
        folder: Of another model of this kind.
        features: The image network, when there is one already.

    Raises:
        ConfigError: There is no model in the folder.
        MissingDependencyError: The extra ``eval`` is not installed.
    """

    name = NAME
    unit = "cosine"

    def __init__(self, folder: Path = FOLDER, *, features: torch.nn.Module | None = None) -> None:
        self.towers = TwoTower.load(folder)
        digest = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
        self.model = f"EfficientNet-Lite0 and a bag of words, trained here on captioned emoji, sha256 {digest}"
        self.features = EffNetLite0Features() if features is None else features

    def unknown(self, texts: Sequence[str]) -> tuple[str, ...]:
        """Captions without any word that the model was trained on."""
        return tuple(text for text in texts if not self.towers.indicators([text]).any())

    @torch.no_grad()
    def scores(self, images: torch.Tensor, texts: Sequence[str]) -> tuple[float, ...]:
        """Cosine similarity of each image with its text, in [-1, 1].

        Args:
            images: Shape [B, 3, H, W], in [0, 1].
            texts: B captions.

        Raises:
            ConfigError: Numbers differ, or a caption has no word that the model was trained on.
        """
        if len(images) != len(texts):
            raise ConfigError(f"wanted a caption for each image, got {len(texts)} for {len(images)}")
        strange = self.unknown(texts)
        if strange:
            raise ConfigError(
                f"{NAME} knows no word of {len(strange)} of {len(texts)} captions, for example '{strange[0]}': leave "
                "them out; it was trained on captions of emoji"
            )
        indicators = self.towers.indicators(texts)
        pictures = self.towers.embed_features(extract_features(self.features, images.float() * 2 - 1))
        return tuple((pictures * self.towers.embed_words(indicators)).sum(dim=1).tolist())


def split_words(text: str) -> list[str]:
    """Lower-case words of a caption, without those of the caption templates."""
    return [word for word in re.findall(r"[a-z0-9]+", text.lower()) if word not in STOP_WORDS]
