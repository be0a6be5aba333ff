"""Auxiliary losses that teach a video denoiser time and motion; the heads are left out of the pipeline.

Rotary positions are relative. In pure noise nothing but the ends of the video tells a token its time, and a
transformer that does not know it cannot begin a motion: without these heads ours drew sprites that stayed where they
were for three thousand steps, whatever the caption said. A head asks an inner block for the frame number, or for where
the sprite is, and the blocks below learn to find it.
"""

import abc
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from dit_accel.training.frames import HeadConfig
from dit_accel.training.sprites import CANVAS_PX, SpriteTrajectory

CENTRE_SCALE_PX, SIZE_MIDDLE_PX, LOG_SIZE_SCALE = 12.0, 27.0, 0.25
PATH_NUMBERS = 3


def path_numbers(path: SpriteTrajectory) -> torch.Tensor:
    """Where the sprite is in each frame, in numbers of unit size: x, y and log size, float32 [F, 3]."""
    size = (path.size / SIZE_MIDDLE_PX).log() / LOG_SIZE_SCALE
    return torch.cat([(path.centre - CANVAS_PX / 2) / CENTRE_SCALE_PX, size[:, None]], dim=1)


class MotionHead(torch.nn.Linear, abc.ABC):
    """A linear layer that reads the tokens of one block.

    Args:
        denoiser: Transformer with ``blocks`` and ``config``; its forward pass is watched from now on.
        config: Where and how much.
        out_features: Numbers that the head says.
    """

    def __init__(self, denoiser: Any, config: HeadConfig, out_features: int) -> None:
        super().__init__(denoiser.config.num_attention_heads * denoiser.config.attention_head_dim, out_features)
        self.weight_of_loss = config.weight
        self.seen: torch.Tensor | None = None
        denoiser.blocks[config.block].register_forward_hook(self._watch)

    def _watch(self, module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        self.seen = output

    @abc.abstractmethod
    def loss(self, frames: torch.Tensor, path: torch.Tensor) -> torch.Tensor:
        """Weighted loss of the last forward pass.

        Args:
            frames: Numbers of the frames that were shown, int64 [k].
            path: From ``path_numbers``, of these frames, float32 [B, k, 3].
        """

    def _tokens(self, k: int) -> torch.Tensor:
        """What was seen, by frame: [B, k, N / k, D]."""
        assert self.seen is not None
        tokens: torch.Tensor = self.seen.unflatten(1, (k, -1))  # type: ignore[no-untyped-call]
        return tokens


class FrameHead(MotionHead):
    """Tells from a token which frame it belongs to; cross-entropy."""

    def loss(self, frames: torch.Tensor, path: torch.Tensor) -> torch.Tensor:
        """See ``MotionHead``."""
        logits = self(self._tokens(len(frames))).float()
        wanted = frames.view(1, -1, 1).expand(logits.shape[:3])
        return self.weight_of_loss * F.cross_entropy(logits.flatten(0, 2), wanted.flatten())


class PathHead(MotionHead):
    """Tells from the mean token of a frame where the sprite is, and how large; squared error."""

    def loss(self, frames: torch.Tensor, path: torch.Tensor) -> torch.Tensor:
        """See ``MotionHead``."""
        return self.weight_of_loss * F.mse_loss(self(self._tokens(len(frames)).mean(dim=2)).float(), path)


def build_heads(denoiser: Any, configs: Mapping[str, HeadConfig], num_frames: int) -> dict[str, MotionHead]:
    """Make the heads of a recipe, by their names: ``"frame_head"``, ``"path_head"``."""
    makers = {"frame_head": (FrameHead, num_frames), "path_head": (PathHead, PATH_NUMBERS)}
    return {name: makers[name][0](denoiser, config, makers[name][1]) for name, config in configs.items()}
