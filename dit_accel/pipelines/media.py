"""Writes images and videos as files; the suffix says the format."""

from collections.abc import Sequence
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from dit_accel.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    import torch

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
VIDEO_SUFFIXES = (".mp4", ".webp", ".gif")
H264, YUV420P = "libx264", "yuv420p"  # plays everywhere
H264_CRF = 12  # rate factor; x264's default of 23 smears clips of 64 pixels
LOSSY_QUALITY = 92
LOSSLESS_PX = 512 * 512  # larger WebP files are lossy: a lossless clip of real size takes minutes and 50 MiB


def to_pil(image: "torch.Tensor", *, zoom: int = 1) -> Image.Image:
    """An 8-bit picture of an image tensor, shape [3, H, W], in [0, 1]; every pixel becomes ``zoom`` x ``zoom``."""
    array = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(array)
    if zoom == 1:
        return picture
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)


def save_sample(sample: "torch.Tensor", path: Path, *, fps: float = 8, zoom: int = 1) -> None:
    """Write one image, shape [3, H, W], or one video, [F, 3, H, W], in [0, 1].

    Args:
        sample: The image or video.
        path: Its suffix is one of ``IMAGE_SUFFIXES`` or ``VIDEO_SUFFIXES``; its folder is made.
        fps: Frames a second of a video.
        zoom: Edge, in pixels of the file, of each pixel.

    Raises:
        ConfigError: The suffix names no format for this.
        MissingDependencyError: An .mp4 was asked for without the extra ``video``.
    """
    if sample.dim() == 4:
        save_video([to_pil(frame, zoom=zoom) for frame in sample], path, fps=fps)
        return
    check_suffix(path, video=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = to_pil(sample, zoom=zoom)
    picture.save(path, **_options(path, picture))


def save_video(frames: Sequence[Image.Image], path: Path, *, fps: float) -> None:
    """Write frames of one size as a video; .webp and .gif repeat for ever.

    Raises:
        ConfigError: The suffix names no video format.
        MissingDependencyError: An .mp4 was asked for without the extra ``video``.
    """
    check_suffix(path, video=True)
    if path.suffix.lower() == ".mp4":
        require_mp4()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".mp4":
        _save_mp4(frames, path, fps)
    else:
        first, *rest = frames
        options = _options(path, first)
        first.save(path, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0, **options)


def check_suffix(path: Path, *, video: bool | None) -> None:
    """Say now whether a file of this name could be written.

    Args:
        path: The file.
        video: Whether it is a video; ``None``: not known yet.

    Raises:
        ConfigError: The suffix names no format, or one for the other thing.
    """
    suffix, formats = path.suffix.lower(), f"images: {_listed(IMAGE_SUFFIXES)}; videos: {_listed(VIDEO_SUFFIXES)}"
    if suffix not in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES):
        raise ConfigError(f"'{path}': no format to write is called '{suffix}' ({formats})")
    if video is not None and suffix not in (VIDEO_SUFFIXES if video else IMAGE_SUFFIXES):
        is_a, not_a = ("a video", "image") if video else ("an image", "video")
        raise ConfigError(f"'{path}': this is {is_a}, and '{suffix}' is a format for {not_a}s ({formats})")


def default_suffix(*, video: bool) -> str:
    """The format for who did not ask for one: .png; for a video .mp4, or .webp where .mp4 cannot be written."""
    if not video:
        return ".png"
    return ".mp4" if find_spec("av") else ".webp"


def require_mp4() -> None:
    """Say now, before anything slow has run, that .mp4 cannot be written.

    Raises:
        MissingDependencyError: PyAV is not installed.
    """
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError.for_extra("av", "video", "writing .mp4") from error


def _save_mp4(frames: Sequence[Image.Image], path: Path, fps: float) -> None:
    import av
    from av.video.reformatter import Colorspace

    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream(H264, Fraction(fps).limit_denominator(1001), options={"crf": str(H264_CRF)})
        context = stream.codec_context
        context.width, context.height = (edge + edge % 2 for edge in frames[0].size)  # 2 x 2 pixels share a colour
        context.pix_fmt, context.colorspace = YUV420P, Colorspace.ITU601
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(_even(frame))))
        container.mux(stream.encode())


def _even(frame: Image.Image) -> Image.Image:
    """The picture with its last column and row repeated where their number is odd."""
    import numpy as np

    right, below = frame.width % 2, frame.height % 2
    return Image.fromarray(np.pad(np.asarray(frame), ((0, below), (0, right), (0, 0)), mode="edge"))


def _options(path: Path, picture: Image.Image) -> dict[str, Any]:
    if path.suffix.lower() == ".webp":
        return {"lossless": picture.width * picture.height <= LOSSLESS_PX, "quality": LOSSY_QUALITY}
    return {"quality": LOSSY_QUALITY, "subsampling": 0} if path.suffix.lower() in (".jpg", ".jpeg") else {}


def _listed(suffixes: Sequence[str]) -> str:
    return ", ".join(suffixes)
