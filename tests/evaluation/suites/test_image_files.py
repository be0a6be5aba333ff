"""Image files: transparency, damage, cropping and resizing, folders."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sample_pictures import pictures

from dit_accel.errors import ConfigError
from dit_accel.evaluation.suites.image_files import DamagedImage, Preparation, list_images, read_image, to_tensor
from dit_accel.pipelines.media import to_pil


def test_what_is_transparent_is_on_white(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 4), dtype=np.uint8)
    pixels[0, 0] = (255, 0, 0, 255)
    pixels[0, 1] = (0, 0, 0, 128)
    Image.fromarray(pixels, "RGBA").save(tmp_path / "a.png")
    read = np.asarray(read_image(tmp_path / "a.png"))
    assert tuple(read[0, 0]) == (255, 0, 0) and tuple(read[3, 3]) == (255, 255, 255)
    assert abs(int(read[0, 1, 0]) - 127) <= 1
    for mode in ("L", "LA", "P", "I;16"):
        Image.new(mode, (4, 4)).save(tmp_path / "b.png")
        assert read_image(tmp_path / "b.png").mode == "RGB"


def test_a_png_comes_back_as_its_8_bits(tmp_path: Path) -> None:
    image = pictures(1)[0]
    to_pil(image).save(tmp_path / "a.png")
    again = to_tensor([read_image(tmp_path / "a.png")])[0]
    assert torch.equal(again, (image * 255).round() / 255)


def test_damage(tmp_path: Path) -> None:
    to_pil(pictures(1)[0]).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not a picture"):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(DamagedImage, match="not a readable image"):
            read_image(tmp_path / "a.png")
    with pytest.raises(DamagedImage, match="no such file"):
        read_image(tmp_path / "b.png")


def test_cropping_and_resizing() -> None:
    wide = Image.fromarray(np.arange(4 * 8 * 3, dtype=np.uint8).reshape(4, 8, 3))
    cropped = Preparation(crop="center").apply(wide)
    assert np.array_equal(np.asarray(cropped), np.asarray(wide)[:, 2:6])
    both = Preparation(crop="center", size_px=2).apply(wide)
    assert np.array_equal(np.asarray(both), np.asarray(cropped.resize((2, 2), Image.Resampling.BICUBIC)))
    assert Preparation().apply(wide) is wide
    assert "256 x 256" in Preparation(size_px=256).resize_words and Preparation().resize_words == ""
    for bad in ({"crop": "left"}, {"size_px": 0}):
        with pytest.raises(ConfigError):
            Preparation(**bad)  # type: ignore[arg-type]


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder of images"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="holds no image"):
        list_images(tmp_path)
    for name in ("b/2.PNG", "a/1.jpg", "notes.txt", "c.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert found == ["a/1.jpg", "b/2.PNG", "c.webp"]
