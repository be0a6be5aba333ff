"""Alignment: does an image show what its caption says? By CLIP, by ImageReward, or by the small judge that ships here.

Each judge is named as what it is, and none downloads anything: big models are read from a local checkpoint.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dit_accel.errors import ConfigError, MissingDependencyError
from dit_accel.evaluation.reports.records import Alignment, Metric

if TYPE_CHECKING:
    import torch

CLIP_SCALE = 100.0
IMAGES_AT_ONCE = 32


class Judge(Protocol):
    """Scores images against captions.

    Attributes:
        name: What its score is called.
        unit: Of the score.
        model: Which model and weights, in words.
    """

    name: str
    unit: str
    model: str

    def scores(self, images: "torch.Tensor", texts: Sequence[str]) -> tuple[float, ...]:
        """One score an image, higher is better; images [B, 3, H, W] in [0, 1]."""
        ...

    def unknown(self, texts: Sequence[str]) -> tuple[str, ...]:
        """Captions that it cannot judge."""
        ...


def alignment(judge: Judge, images: "torch.Tensor", texts: Sequence[str]) -> Alignment:
    """Score images against their captions, as a report keeps it.

    Args:
        judge: For example ``EmojiTwoTower()``.
        images: Shape [B, 3, H, W], in [0, 1].
        texts: B captions.

    Raises:
        ConfigError: Numbers differ, or there is no image.
    """
    if not len(images) or len(images) != len(texts):
        raise ConfigError(f"wanted a caption for each image, at least one; got {len(texts)} for {len(images)}")
    values = Metric.of(judge.scores(images, texts))
    return Alignment(name=judge.name, unit=judge.unit, model=judge.model, scores=values)


class OpenClipScore:
    """CLIP score (Hessel et al. 2021): 100 max(cos, 0), as torchmetrics scales it (the paper: 2.5 in 100's place).

    Args:
        architecture: open_clip's name, for example ``"ViT-L-14"``; it belongs into every table, since values of
            different CLIPs do not compare.
        checkpoint: Local weights file.
        device: Where to run.

    Raises:
        ConfigError: There is no such file, or open_clip does not know the architecture.
        MissingDependencyError: open_clip is not installed.
    """

    name = "CLIP score"
    unit = "100 max(cosine, 0)"

    def __init__(self, architecture: str, checkpoint: Path, *, device: str = "cpu") -> None:
        digest = _checked_file(checkpoint, f"a checkpoint of {architecture} for open_clip")
        try:
            import open_clip
        except ImportError as error:
            raise MissingDependencyError.for_extra("open-clip-torch", "eval", "The CLIP score") from error
        known = open_clip.list_models()
        if architecture not in known:
            raise ConfigError(f"open_clip has no architecture '{architecture}'; it has: {', '.join(known)}")
        network, _, self._preprocess = open_clip.create_model_and_transforms(architecture, pretrained=str(checkpoint))
        self._network = network.to(device).eval()
        self._tokenize = open_clip.get_tokenizer(architecture)
        self._device = device
        self.model = f"open_clip {architecture}, {checkpoint.name}, sha256 {digest}"

    def unknown(self, texts: Sequence[str]) -> tuple[str, ...]:
        """See :class:`Judge`: it takes any caption."""
        return ()

    def scores(self, images: "torch.Tensor", texts: Sequence[str]) -> tuple[float, ...]:
        """See :class:`Judge`."""
        import torch
        import torch.nn.functional as F

        done: list[float] = []
        for start in range(0, len(images), IMAGES_AT_ONCE):
            part = _pictures(images[start : start + IMAGES_AT_ONCE])
            tokens = self._tokenize(list(texts[start : start + IMAGES_AT_ONCE])).to(self._device)
            pixels = torch.stack([self._preprocess(picture) for picture in part]).to(self._device)
            with torch.no_grad():
                pair = self._network.encode_image(pixels), self._network.encode_text(tokens)
            left, right = (F.normalize(vectors.float(), dim=1) for vectors in pair)
            done += (CLIP_SCALE * (left * right).sum(dim=1).clamp_min(0)).tolist()
        return tuple(done)


class ImageRewardScore:
    """ImageReward (Xu et al. 2023): a reward trained on human preferences, standardised by its authors.

    Args:
        checkpoint: Local ``ImageReward.pt``.
        med_config: Its ``med_config.json``.
        device: Where to run.

    Raises:
        ConfigError: A file is missing.
        MissingDependencyError: The package ``image-reward`` is not installed. It pins old versions of others, so it is
            in no extra of ours and best lives in an environment of its own.
    """

    name = "ImageReward"
    unit = "reward"

    def __init__(self, checkpoint: Path, med_config: Path, *, device: str = "cpu") -> None:
        digest = _checked_file(checkpoint, "ImageReward's weights, ImageReward.pt of its release 1.0,")
        _checked_file(med_config, "ImageReward's med_config.json")
        try:
            import ImageReward
        except ImportError as error:
            raise MissingDependencyError(
                "ImageReward needs 'image-reward', which is not installed and is in no extra, since it pins old "
                "versions of other packages: pip install image-reward, best into an environment of its own"
            ) from error
        self._network: Any = ImageReward.load(str(checkpoint), device=device, med_config=str(med_config))
        self.model = f"ImageReward, {checkpoint.name}, sha256 {digest}"

    def unknown(self, texts: Sequence[str]) -> tuple[str, ...]:
        """See :class:`Judge`: it takes any caption."""
        return ()

    def scores(self, images: "torch.Tensor", texts: Sequence[str]) -> tuple[float, ...]:
        """See :class:`Judge`."""
        import torch

        with torch.no_grad():
            pairs = zip(texts, _pictures(images), strict=True)
            return tuple(float(self._network.score(text, picture)) for text, picture in pairs)


def _pictures(images: "torch.Tensor") -> list[Any]:
    from dit_accel.pipelines.media import to_pil

    return [to_pil(image) for image in images]


def _checked_file(path: Path, what: str) -> str:
    """The file's sha256."""
    if not path.is_file():
        raise ConfigError(f"no file at '{path}': put {what} there; nothing is downloaded")
    return hashlib.sha256(path.read_bytes()).hexdigest()
