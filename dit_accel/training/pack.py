"""Training data in one small file, for machines without a network: the wanted emoji files and what they are called.

The files go in exactly as the npm packages hold them, so whatever is decoded from a pack is decoded from the same
bytes as from the tarballs. All three styles with all concepts are 20 MB, where the tarballs are 152 MB. Encoding the
images anew would save little more (lossless WebP at 64 px: about 15 MB) and would tie the pack to a codec's version.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dit_accel.errors import ConfigError, DitAccelError

PACK_VERSION = 1
MANIFEST = "pack.json"
RECORD_FIELDS = ("name", "unified", "image", "short_names", "category")
# A zip holds the time of every file; a fixed one makes equal packs equal bytes.
FIXED_TIME = (1980, 1, 1, 0, 0, 0)


def write_pack(
    path: Path,
    records: Sequence[Mapping[str, Any]],
    categories: Sequence[str],
    files: Mapping[str, Mapping[str, bytes]],
    integrity: Mapping[str, str],
) -> None:
    """Write a pack; equal data gives equal bytes.

    Args:
        path: File to write, a zip.
        records: Emoji records, as in the ``emoji.json`` of an emoji-datasource package.
        categories: The categories that ``records`` is complete for; empty means all.
        files: Image files by code point, by style.
        integrity: Integrity string of each style's npm package.
    """
    manifest = {
        "version": PACK_VERSION,
        "categories": sorted(categories),
        "styles": {
            style: {"integrity": integrity[style], "codes": sorted(found), "sha256": _digest(found)}
            for style, found in sorted(files.items())
        },
        "records": [{field: record[field] for field in RECORD_FIELDS} for record in records],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as pack:
        pack.writestr(_entry(MANIFEST, zipfile.ZIP_DEFLATED), json.dumps(manifest, sort_keys=True))
        for style, found in sorted(files.items()):
            for code, content in sorted(found.items()):
                pack.writestr(_entry(f"{style}/{code}", zipfile.ZIP_STORED), content)


def read_pack_records(path: Path, categories: Sequence[str]) -> list[dict[str, Any]]:
    """Read the emoji records of a pack.

    Args:
        path: The pack.
        categories: Categories that will be asked of the records; empty means all.

    Raises:
        ConfigError: The pack was made for fewer categories, or it is no pack.
    """
    manifest = _manifest(path)
    held = manifest["categories"]
    if held and (not categories or set(categories) - set(held)):
        raise ConfigError(f"The pack {path} holds the categories {', '.join(held)} only; pack anew what is needed.")
    records: list[dict[str, Any]] = manifest["records"]
    return records


def read_pack_files(path: Path, style: str, codes: Sequence[str], integrity: str) -> dict[str, bytes]:
    """Read image files of one style, verified.

    Args:
        path: The pack.
        style: Name of the style.
        codes: Wanted code points; the ones the style lacks are left out of the result.
        integrity: Integrity string that the style's npm package must have had.

    Raises:
        ConfigError: The pack lacks the style or was made from another version of it, or it is no pack.
        DitAccelError: The pack is damaged.
    """
    styles = _manifest(path)["styles"]
    if style not in styles:
        raise ConfigError(f"The pack {path} holds the styles {', '.join(styles)} and not '{style}'.")
    if styles[style]["integrity"] != integrity:
        raise ConfigError(f"The pack {path} was made from another version of the '{style}' images; pack anew.")
    try:
        with zipfile.ZipFile(path) as pack:
            found = {code: pack.read(f"{style}/{code}") for code in styles[style]["codes"]}
    except (zipfile.BadZipFile, KeyError) as error:
        raise DitAccelError(f"The pack {path} is damaged: {error}.") from error
    if _digest(found) != styles[style]["sha256"]:
        raise DitAccelError(f"The pack {path} is damaged: the '{style}' images are not the ones that were packed.")
    return {code: found[code] for code in codes if code in found}


def _manifest(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as pack:
            manifest: dict[str, Any] = json.loads(pack.read(MANIFEST))
    except (zipfile.BadZipFile, KeyError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} is not a pack of training data ('dit-accel train-embedded --pack').") from error
    if manifest["version"] != PACK_VERSION:
        raise ConfigError(f"The pack {path} has version {manifest['version']}, wanted {PACK_VERSION}; pack anew.")
    return manifest


def _entry(name: str, compression: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, FIXED_TIME)
    entry.compress_type = compression
    return entry


def _digest(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for code, content in sorted(files.items()):
        digest.update(f"{code} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()
