"""Files hold the pixels, frames and speed that were written, and a wrong format is one clear error."""

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageSequence

from dit_accel.errors import ConfigError, MissingDependencyError
from dit_accel.pipelines.media import default_suffix, require_mp4, save_sample, to_pil


def clip(frames: int = 6, height: int = 16, width: int = 32) -> torch.Tensor:
    """A white square on coloured ground, moving right, [F, 3, H, W]."""
    video = torch.tensor([0.2, 0.4, 0.8]).view(1, 3, 1, 1).repeat(frames, 1, height, width)
    for number in range(frames):
        video[number, :, 4:12, 4 * number : 4 * number + 8] = 1
    return video


def read_back(path: Path) -> tuple[torch.Tensor, float]:
    """Frames of an .mp4, [F, 3, H, W] in [0, 1], and their rate."""
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        frames = [torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]
    return torch.stack(frames).permute(0, 3, 1, 2) / 255, float(stream.average_rate)


@pytest.mark.parametrize(("fps", "zoom"), [(8, 1), (12.5, 3)])
def test_mp4_is_what_was_written(tmp_path: Path, fps: float, zoom: int) -> None:
    pytest.importorskip("av")
    save_sample(clip(), tmp_path / "new" / "clip.mp4", fps=fps, zoom=zoom)
    frames, rate = read_back(tmp_path / "new" / "clip.mp4")
    expected = clip().repeat_interleave(zoom, 2).repeat_interleave(zoom, 3)
    assert frames.shape == expected.shape
    assert rate == fps
    assert (frames - expected).abs().mean() < 0.02


def test_mp4_of_odd_size_gets_a_column_and_a_row(tmp_path: Path) -> None:
    pytest.importorskip("av")
    save_sample(clip(height=17, width=33), tmp_path / "clip.mp4")
    frames, _ = read_back(tmp_path / "clip.mp4")
    assert frames.shape == (6, 3, 18, 34)
    assert (frames[..., 17, :] - frames[..., 16, :]).abs().mean() < 0.03


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_loops_hold_the_pixels(tmp_path: Path, suffix: str) -> None:
    save_sample(clip(), tmp_path / f"clip{suffix}", fps=10, zoom=2)
    with Image.open(tmp_path / f"clip{suffix}") as file:
        frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(file)]
        assert file.info["loop"] == 0
    assert [frame.tobytes() for frame in frames] == [to_pil(frame, zoom=2).tobytes() for frame in clip()]


@pytest.mark.parametrize(("suffix", "exact"), [(".png", True), (".webp", True), (".jpg", False), (".PNG", True)])
def test_images_hold_the_pixels(tmp_path: Path, suffix: str, exact: bool) -> None:
    save_sample(clip()[0], tmp_path / f"image{suffix}", zoom=2)
    with Image.open(tmp_path / f"image{suffix}") as image:
        assert image.size == (64, 32)
        assert (image.convert("RGB").tobytes() == to_pil(clip()[0], zoom=2).tobytes()) == exact


@pytest.mark.parametrize(
    ("name", "is_video", "message"),
    [
        ("x.avi", True, "no format to write is called '.avi'"),
        ("x", False, "no format"),
        ("x.png", True, "this is a video, and '.png' is a format for images"),
        ("x.mp4", False, "this is an image, and '.mp4' is a format for videos"),
    ],
)
def test_wrong_formats(tmp_path: Path, name: str, is_video: bool, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        save_sample(clip() if is_video else clip()[0], tmp_path / name)
    assert not any(tmp_path.iterdir())


def test_without_the_extra_mp4_names_it_and_webp_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    assert (default_suffix(video=True), default_suffix(video=False)) == (".webp", ".png")
    with pytest.raises(MissingDependencyError, match=r"dit-accel\[video\]"):
        require_mp4()
    with pytest.raises(MissingDependencyError, match=r"dit-accel\[video\]"):
        save_sample(clip(), tmp_path / "clip.mp4")
