"""Text to image, then image to video, chunk after chunk: Magic 1-For-1's factorisation, for any two pipelines.

Yi et al. 2025, "Magic 1-For-1" (arXiv 2502.07701): an image is easier to draw, and continuing it is easier to distil
to few steps, than drawing a video from text at once; a long video is a window that slides, each chunk continuing the
last frames of the one before. Either half may be accelerated, quantised or distilled beforehand: they are called as
they are. Departs from the paper: any two diffusers pipelines, and a text-to-video pipeline continues frames by
replacement (``first_frames.py``), since the small ones that ship here have no image input.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dit_accel.errors import ConfigError, UnsupportedModelError
from dit_accel.pipelines.first_frames import FirstFrames

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorisedConfig:
    """How the two halves work together.

    Attributes:
        chunks: Calls of the video pipeline.
        overlap: Last frames of a chunk that the next one continues; a pipeline with one image input takes 1.
        image_frac: Edge of the image as a share of a frame's; what is around it has the colour of its border. For a
            video pipeline that draws its subjects smaller than the image pipeline does (emoji-wan: about 0.5): it
            would otherwise go on from the image with a jump.
        offload: Keep on its device, which is the one it is on at first, only the half that works; whenever it does
            not, a half is on the CPU.
        image: Call settings of the image pipeline, for example ``{"num_inference_steps": 4}``.
        video: Call settings of the video pipeline, for example ``{"num_inference_steps": 4, "guidance_scale": 1.0}``
            for a student with the guidance inside: one denoiser call a step.
    """

    chunks: int = 1
    overlap: int = 1
    image_frac: float = 1.0
    offload: bool = False
    image: Mapping[str, Any] = field(default_factory=dict)
    video: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.chunks < 1 or self.overlap < 1:
            raise ConfigError(f"chunks and overlap must be 1 or more, got {self.chunks} and {self.overlap}")
        if not 0.1 <= self.image_frac <= 1:
            raise ConfigError(f"'image_frac' must lie in [0.1, 1], got {self.image_frac}")


class FactorisedTextToVideo:
    """A text-to-video pipeline made of two.

    Args:
        text_to_image: Any text-to-image pipeline.
        to_video: Any image-to-video pipeline that also takes a prompt, or a text-to-video one that
            :class:`FirstFrames` can use.
        config: How.

    Example:
        >>> make = FactorisedTextToVideo(load_embedded("emoji-flux"), load_embedded("emoji-wan"))
        >>> frames = make("a red apple", motion="a red apple moves left", seed=0)

    Raises:
        UnsupportedModelError: The second pipeline takes no prompt, or can neither be given an image nor frames.
        ConfigError: More frames overlap than it can be given.
    """

    def __init__(self, text_to_image: Any, to_video: Any, config: FactorisedConfig | None = None) -> None:
        self.text_to_image, self.to_video, self.config = text_to_image, to_video, config or FactorisedConfig()
        accepted = inspect.signature(type(to_video).__call__).parameters
        if "prompt" not in accepted:
            raise UnsupportedModelError(
                f"{type(to_video).__name__} takes no prompt, so it cannot be told what happens in a video"
            )
        self._takes_image = "image" in accepted
        if self._takes_image and self.config.overlap > 1:
            raise ConfigError(
                f"{type(to_video).__name__} continues one image, so 'overlap' must be 1, got {self.config.overlap}"
            )
        self._frames_input = None if self._takes_image else FirstFrames(to_video)
        self._lent = [_Lent(pipe) for pipe in (text_to_image, to_video)] if self.config.offload else []

    def __call__(
        self,
        prompt: str,
        *,
        motion: str | Sequence[str] | None = None,
        seed: int = 0,
        on_chunk: Callable[[int, "torch.Tensor"], None] | None = None,
    ) -> "torch.Tensor":
        """Draw a video.

        Args:
            prompt: What the image shows.
            motion: What happens, for the video pipeline: one for all chunks, or one a chunk; ``None``: ``prompt``.
            seed: Of the image; chunk k has ``seed + 1 + k``.
            on_chunk: Told the number and the new frames of each chunk when it is drawn.

        Returns:
            float32 [F, 3, H, W] in [0, 1], F = frames of a chunk + (chunks - 1) (frames of a chunk - overlap): the
            first chunk begins with the image, and frames that overlap are there once.

        Raises:
            ConfigError: Not as many motions as chunks, or a chunk without a new frame.
        """
        import torch

        motions = list(motion) if motion is not None and not isinstance(motion, str) else [motion or prompt]
        if len(motions) == 1:
            motions *= self.config.chunks
        if len(motions) != self.config.chunks:
            raise ConfigError(f"wanted one motion, or {self.config.chunks}, got {len(motions)}")
        with self._on_device(0):
            video = self._fitted(self._image(prompt, seed))
        with self._on_device(1):
            for number, words in enumerate(motions):
                known = video[-self.config.overlap :]
                chunk = self._chunk(words, known, seed + 1 + number)
                if len(chunk) <= len(known):
                    raise ConfigError(
                        f"a chunk of {len(chunk)} frames that begins with {len(known)} has nothing new: ask for more "
                        "frames, or a smaller 'overlap'"
                    )
                if number == 0:
                    video = _resized(video, chunk.shape[-2:])  # a pipeline without sizes of its own in its call
                new = chunk[len(known) :]
                if on_chunk is not None:
                    on_chunk(number, new)
                video = torch.cat([video, new])
        return video

    def _image(self, prompt: str, seed: int) -> "torch.Tensor":
        import torch

        generator = torch.Generator("cpu").manual_seed(seed)
        made = self.text_to_image(prompt, generator=generator, output_type="pt", **self.config.image).images
        image: torch.Tensor = made[:1].float().cpu().clamp(0, 1)
        return image

    def _chunk(self, prompt: str, known: "torch.Tensor", seed: int) -> "torch.Tensor":
        """Frames of one call, those that it continues first."""
        import torch

        generator = torch.Generator("cpu").manual_seed(seed)
        if self._frames_input is not None:
            return self._frames_input(prompt, frames=known, generator=generator, **self.config.video)
        made = self.to_video(
            image=_picture(known[-1]), prompt=prompt, generator=generator, output_type="pt", **self.config.video
        ).frames[0]
        frames: torch.Tensor = made.float().cpu().clamp(0, 1)
        return torch.cat([_resized(known[-1:], frames.shape[-2:]), frames[1:]])

    def _fitted(self, frames: "torch.Tensor") -> "torch.Tensor":
        """At the size of the videos, and of the things in them."""
        import torch

        accepted = inspect.signature(type(self.to_video).__call__).parameters
        sides = [side for side in ("height", "width") if side in accepted]
        size = tuple(self.config.video.get(side) or accepted[side].default for side in sides)
        if len(size) != 2 or not all(isinstance(each, int) for each in size):
            size = tuple(frames.shape[-2:])
        inner = tuple(max(1, round(self.config.image_frac * each)) for each in size)
        frames = _resized(frames, inner)
        if inner == size:
            return frames
        edges = (frames[..., 0, :], frames[..., -1, :], frames[..., :, 0], frames[..., :, -1])
        canvas = (
            torch.cat(edges, dim=-1).median(dim=-1).values[..., None, None].expand(*frames.shape[:2], *size).clone()
        )
        top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
        canvas[..., top : top + inner[0], left : left + inner[1]] = frames
        return canvas

    def _on_device(self, half: int) -> AbstractContextManager[None]:
        return self._lent[half] if self._lent else nullcontext()


class _Lent(AbstractContextManager[None]):
    """One half is on its device while it works, and from now on, on the CPU otherwise."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.device = pipe.device
        pipe.to("cpu")

    def __enter__(self) -> None:
        self.pipe.to(self.device)

    def __exit__(self, *error: object) -> None:
        self.pipe.to("cpu")


def _resized(frames: "torch.Tensor", size: Sequence[int]) -> "torch.Tensor":
    """Frames [k, 3, H, W] at another height and width."""
    import torch

    if tuple(frames.shape[-2:]) == tuple(size):
        return frames
    return torch.nn.functional.interpolate(frames, size=tuple(size), mode="bilinear", antialias=True).clamp(0, 1)


def _picture(frame: "torch.Tensor") -> Any:
    """A PIL image, which every image-to-video pipeline takes."""
    from PIL import Image

    return Image.fromarray((frame * 255).round().byte().permute(1, 2, 0).numpy())
