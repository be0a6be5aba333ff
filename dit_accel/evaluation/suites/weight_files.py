"""Weights that are in no package: which file, where it goes, where it comes from. Fetched only when asked for."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from dit_accel.errors import MissingDependencyError
from dit_accel.evaluation.metrics.networks import INCEPTION_FILE, INCEPTION_SHA256, INCEPTION_URL

DEFAULT_FOLDER = Path("~/.cache/dit_accel/weights")
CLIP_ARCHITECTURE = "ViT-L-14-quickgelu"  # OpenAI's weights were trained with QuickGELU; "ViT-L-14" runs them wrongly


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFile:
    """One file.

    Attributes:
        name: In the folder of weights.
        needed_by: What cannot be measured without it.
        url: Where it is; of the Hugging Face hub, the file's page.
        hub: Repository and file of the hub; ``None``: a plain download.
        sha256: Where it is known.
        instead: What to do without it.
    """

    name: str
    needed_by: str
    url: str
    hub: tuple[str, str] | None = None
    sha256: str | None = None
    instead: str


def _on_hub(repo: str, file: str) -> str:
    return f"https://huggingface.co/{repo}/blob/main/{file}"


_CLIP = ("timm/vit_large_patch14_clip_224.openai", "open_clip_model.safetensors")
_REWARD = "zai-org/ImageReward"
_WITHOUT = "leave the judge out (--judge none), or on emoji use --judge emoji-two-tower, which is no CLIP score"

WEIGHT_FILES = MappingProxyType(
    {
        "inception-v3": WeightFile(
            name=INCEPTION_FILE,
            needed_by="FID",
            url=INCEPTION_URL,
            sha256=INCEPTION_SHA256,
            instead="measure on --network effnet-lite0, which is no FID and is not called so, or leave distances out "
            "(--network none)",
        ),
        "clip": WeightFile(
            name="clip-ViT-L-14-openai.safetensors",
            needed_by="the CLIP score",
            url=_on_hub(*_CLIP),
            hub=_CLIP,
            instead=_WITHOUT,
        ),
        "image-reward": WeightFile(
            name="ImageReward.pt",
            needed_by="ImageReward",
            url=_on_hub(_REWARD, "ImageReward.pt"),
            hub=(_REWARD, "ImageReward.pt"),
            instead=_WITHOUT,
        ),
        "image-reward-config": WeightFile(
            name="med_config.json",
            needed_by="ImageReward",
            url=_on_hub(_REWARD, "med_config.json"),
            hub=(_REWARD, "med_config.json"),
            instead=_WITHOUT,
        ),
    }
)


def find_weights(key: str, folder: Path, *, download: bool = False) -> Path:
    """Where a file of weights is.

    Args:
        key: Of ``WEIGHT_FILES``.
        folder: Of weights; InceptionV3's is also looked for where ``torch.hub`` keeps files.
        download: Fetch it when it is missing.

    Raises:
        MissingDependencyError: It is not there, or could not be fetched; the message says which file to put where.
    """
    import torch

    wanted, folder = WEIGHT_FILES[key], folder.expanduser()
    target = folder / wanted.name
    for place in (target, Path(torch.hub.get_dir()) / "checkpoints" / wanted.name):
        if place.is_file():
            return place
    fault = ""
    if download:
        try:
            return _fetch(wanted, target)
        except Exception as error:  # of whatever kind the network's is
            fault = f" (fetching it failed: {type(error).__name__}: {' '.join(str(error).split())[:200]})"
    advice = "put it there from" if download else "fetch it with --download, or put it there from"
    raise MissingDependencyError(
        f"{wanted.needed_by} needs the file '{target}', which is not there{fault}: {advice} {wanted.url}; or "
        f"{wanted.instead}"
    )


def _fetch(wanted: WeightFile, target: Path) -> Path:
    import torch

    target.parent.mkdir(parents=True, exist_ok=True)
    if wanted.hub is None:
        prefix = wanted.sha256[:8] if wanted.sha256 else None
        torch.hub.download_url_to_file(wanted.url, str(target), hash_prefix=prefix)
        return target
    from huggingface_hub import hf_hub_download

    part = target.with_name(target.name + ".part")
    shutil.copyfile(hf_hub_download(*wanted.hub), part)
    part.replace(target)
    return target
