"""A pack holds exactly what the tarballs hold of the wanted emoji, and says so when it does not fit."""

import dataclasses
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from dit_accel.errors import ConfigError, DitAccelError
from dit_accel.training import data
from dit_accel.training.recipes import get_recipe
from dit_accel.training.training_set import load_training_set
from dit_accel.training.zoo import pack_training_data

NAMES = ("RED APPLE", "GREEN APPLE", "TIGER", "OWL", "BANANA")
STYLES = ("google", "fluent-3d")


def image(seed: int, source: data.Source) -> bytes:
    pixels = torch.randint(0, 256, (80, 80, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, source.suffix[1:].upper(), lossless=True)
    return buffer.getvalue()


@pytest.fixture
def tarballs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two packages: the second lacks an image; both hold files that nobody asked for."""
    records = [
        {
            "name": name,
            "unified": f"1F34{k}",
            "image": f"1f34{k}.png",
            "short_names": [f"thing{k}"],
            "category": "Symbols" if name == "BANANA" else "Food & Drink",
            "has_img_google": True,
        }
        for k, name in enumerate(NAMES)
    ]
    folder = tmp_path / "tarballs"
    folder.mkdir()
    for style in STYLES:
        source = dataclasses.replace(data.SOURCES[style], package=f"{style}@1.0.0")
        monkeypatch.setitem(data.SOURCES, style, source)
        files = {"package/emoji.json": json.dumps(records).encode(), "package/other.txt": b"x" * 10_000}
        for k in range(len(NAMES) - (style == "fluent-3d")):
            selector = "-fe0f" if k == 0 else ""
            files[f"{source.image_folder}1f34{k}{selector}{source.suffix}"] = image(k, source)
        with tarfile.open(folder / source.tarball, "w:gz") as tar:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    monkeypatch.setattr(data, "fetch", lambda source, folder: folder / source.tarball)
    return folder


def test_a_pack_gives_the_same_training_sets_as_the_tarballs(tarballs: Path, tmp_path: Path) -> None:
    small, large = (dataclasses.replace(get_recipe("emoji-pixart", "cpu"), styles=s) for s in (STYLES[:1], STYLES))
    everything = dataclasses.replace(large, categories=())
    packs = [tmp_path / "a.pack", tmp_path / "b.pack"]
    pack_training_data([small, everything], tarballs, packs[0])
    pack_training_data([everything, small], tarballs, packs[1])
    assert packs[0].read_bytes() == packs[1].read_bytes(), "equal data, equal bytes"
    for recipe in (small, large, everything):
        for held_out in (False, True):
            wanted, found = (load_training_set(recipe, d, held_out=held_out) for d in (tarballs, packs[0]))
            assert torch.equal(wanted.images, found.images)
            assert wanted.concepts == found.concepts and wanted.styles == found.styles
    assert data.load_files(packs[0], "google", ["1f343"]) == data.load_files(tarballs, "google", ["1f343"])


def test_a_pack_that_does_not_hold_what_is_wanted_says_so(
    tarballs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = tmp_path / "a.pack"
    recipe = get_recipe("emoji-pixart", "cpu")
    pack_training_data([recipe], tarballs, pack)
    assert (
        len(load_training_set(recipe, pack).images) + len(load_training_set(recipe, pack, held_out=True).images) == 4
    )
    with pytest.raises(ConfigError, match="categories"):
        load_training_set(dataclasses.replace(recipe, categories=()), pack)
    with pytest.raises(ConfigError, match="not 'fluent-3d'"):
        load_training_set(dataclasses.replace(recipe, styles=STYLES), pack)
    monkeypatch.setitem(data.SOURCES, "google", dataclasses.replace(data.SOURCES["google"], integrity="sha512-new"))
    with pytest.raises(ConfigError, match="another version"):
        load_training_set(recipe, pack)


def test_a_damaged_pack_is_refused(tarballs: Path, tmp_path: Path) -> None:
    pack, changed = tmp_path / "a.pack", tmp_path / "b.pack"
    recipe = get_recipe("emoji-pixart", "cpu")
    pack_training_data([recipe], tarballs, pack)
    with zipfile.ZipFile(pack) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            new.writestr(name, image(9, data.SOURCES["google"]) if name == "google/1f340" else old.read(name))
    with pytest.raises(DitAccelError, match="damaged"):
        load_training_set(recipe, changed)
    changed.write_bytes(b"PK")
    with pytest.raises(ConfigError, match="is not a pack"):
        load_training_set(recipe, changed)
