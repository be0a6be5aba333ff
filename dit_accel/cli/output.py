"""Where ``generate`` writes, under which names, in which format."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_accel.cli.console import tell
from dit_accel.errors import ConfigError

if TYPE_CHECKING:
    import torch

# A suffix made of a letter and more is a file's; "runs/v1.5" is a folder.
_FILE_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What ``--output``, ``--zoom`` and ``--fps`` ask for.

    Attributes:
        path: A folder; or, for one result, a file.
        zoom: Edge, in pixels of the file, of each pixel.
        fps: Frames a second of a video; ``None``: what suits the clip.
    """

    path: Path
    zoom: int = 1
    fps: float | None = None

    @property
    def is_file(self) -> bool:
        """Whether ``path`` names a file, not a folder."""
        return bool(_FILE_SUFFIX.fullmatch(self.path.suffix)) and not self.path.is_dir()

    def check(self, num_results: int, *, compare: bool) -> None:
        """Say what can be said before a model is loaded.

        Raises:
            ConfigError: One file for several results, or no format of that name.
            MissingDependencyError: An .mp4 was asked for without the extra ``video``.
        """
        from dit_accel.pipelines.media import check_suffix, require_mp4

        if not self.is_file:
            return
        check_suffix(self.path, video=None)
        if compare or num_results > 1:
            many = "--compare writes several files" if compare else f"{num_results} results do not fit into one file"
            raise ConfigError(f"{many}: give --output a folder, not '{self.path}'")
        if self.path.suffix.lower() == ".mp4":
            require_mp4()

    def check_for(self, pipe: Any) -> None:
        """Say before anything is made that it could not be written.

        Raises:
            ConfigError: The format or ``--fps`` is not for what this pipeline makes.
        """
        from dit_accel.pipelines.generation import makes_video
        from dit_accel.pipelines.media import check_suffix, default_suffix

        video = makes_video(pipe)
        if self.fps is not None and not video:
            raise ConfigError(f"--fps is for videos, and {type(pipe).__name__} makes images")
        if self.is_file:
            check_suffix(self.path, video=video)
        elif video and default_suffix(video=True) != ".mp4":
            tell("note: videos are written as .webp; for .mp4: pip install 'dit-accel[video]'")

    def fps_for(self, pipe: Any, made: "torch.Tensor") -> float:
        """Frames a second for what this pipeline made, images [B, 3, H, W] or videos [B, F, 3, H, W]."""
        from dit_accel.pipelines.generation import fps_of

        return self.fps or fps_of(pipe, made.shape[1] if made.dim() == 5 else 1)

    def save(
        self, pipe: Any, made: "torch.Tensor", samples: Sequence[tuple[str, int]], *, suffix: str = ""
    ) -> list[str]:
        """Write what a pipeline made, one file for each prompt and seed; returns their paths.

        Args:
            pipe: The pipeline.
            made: Images [B, 3, H, W] or videos [B, F, 3, H, W].
            samples: Prompt and seed of each.
            suffix: Of the names in a folder.
        """
        from dit_accel.pipelines.media import default_suffix, save_sample

        kind = default_suffix(video=made.dim() == 5)
        paths = []
        for sample, (prompt, seed) in zip(made, samples, strict=True):
            path = self.path if self.is_file else self.path / f"{_slug(prompt)}_seed{seed}{suffix}{kind}"
            save_sample(sample, path, fps=self.fps_for(pipe, made), zoom=self.zoom)
            paths.append(str(path))
        return paths


def _slug(prompt: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "picture"
