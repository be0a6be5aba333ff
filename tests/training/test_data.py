"""Downloads are verified, images are composited on white; no network."""

import dataclasses
import io
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from dit_accel.errors import ConfigError, DitAccelError
from dit_accel.training import data


def png(colour: tuple[int, int, int, int], size: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA", (size, size), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_transparent_becomes_white_and_size_is_kept() -> None:
    assert bool((data.decode_image(png((10, 20, 30, 0)), 64) == 255).all())
    image = data.decode_image(png((10, 20, 30, 255), size=128), 64)
    assert image.shape == (3, 64, 64) and image.dtype == torch.uint8
    assert image[:, 5, 5].tolist() == [10, 20, 30]


def test_a_changed_tarball_is_refused(tmp_path: Path) -> None:
    (tmp_path / data.SOURCES["google"].tarball).write_bytes(b"not what it was")
    with pytest.raises(DitAccelError, match="wanted sha512-"):
        data.fetch(data.SOURCES["google"], tmp_path)
    assert not (tmp_path / data.SOURCES["google"].tarball).exists()


def test_missing_npm_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.shutil, "which", lambda _: None)
    with pytest.raises(DitAccelError, match=r"Install Node\.js"):
        data.fetch(data.SOURCES["google"], tmp_path)


def test_tarball_names_are_those_of_npm_pack() -> None:
    assert data.SOURCES["google"].tarball == "emoji-datasource-google-16.0.0.tgz"
    assert data.SOURCES["fluent-3d"].tarball == "lobehub-fluent-emoji-3d-1.1.0.tgz"


def test_unknown_style_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'google'"):
        data.get_source("gogle")


def test_images_are_found_with_and_without_the_variation_selector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = dataclasses.replace(data.SOURCES["google"], package="fake@1.0.0")
    with tarfile.open(tmp_path / source.tarball, "w:gz") as tar:
        for name in ("package/img/google/64/1f336-fe0f.png", "package/img/google/128/1f34e.png", "package/evil.txt"):
            content = png((0, 0, 0, 255))
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    monkeypatch.setitem(data.SOURCES, "google", source)
    monkeypatch.setattr(data, "fetch", lambda source, folder: folder / source.tarball)
    images = data.load_images(tmp_path, "google", ["1f336", "1f34e"], 64)
    assert list(images) == ["1f336"]
