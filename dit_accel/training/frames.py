"""How many frames of a video a training step sees.

A video of 16 frames is 1,024 tokens, ten times the cost of an image. Most steps therefore see ``k`` of its frames
only, each with the rotary position of its true time: appearance and motion are learned on 64 or 256 tokens, and the
last part of the training sees whole videos.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from dit_accel.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class FramePhase:
    """A part of the training and how many frames its steps see.

    Attributes:
        until_frac: Where the phase ends, as a fraction of all steps.
        frames: Numbers of frames a step may see, each with its probability.
    """

    until_frac: float
    frames: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 < self.until_frac <= 1:
            raise ConfigError(f"until_frac must lie in (0, 1], got {self.until_frac}.")
        if abs(sum(share for _, share in self.frames) - 1) > 1e-6:
            raise ConfigError(f"The probabilities of a phase must add up to 1, got {self.frames}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameHeadConfig:
    """See ``FrameHead``.

    Attributes:
        block: Number of the transformer block whose tokens the head reads.
        weight: Weight of its loss.
        num_frames: Frames of a whole video.
    """

    block: int = 2
    weight: float = 0.1
    num_frames: int = 16


class FrameHead(torch.nn.Linear):
    """Tells from a token which frame of the video it belongs to: an auxiliary loss, for training only.

    Rotary positions are relative. In pure noise nothing but the ends of the video tells a token its time, and a
    transformer that does not know it cannot begin a motion: without this head ours drew a still sprite for thousands
    of steps, in whatever direction the caption sent it. The head asks for the time, and the inner blocks find it.

    Args:
        denoiser: Transformer with ``blocks`` and ``config``; its forward pass is watched from now on.
        config: Where and how much.
    """

    def __init__(self, denoiser: Any, config: FrameHeadConfig) -> None:
        dim = denoiser.config.num_attention_heads * denoiser.config.attention_head_dim
        super().__init__(dim, config.num_frames)
        self.weight_of_loss = config.weight
        self.seen: torch.Tensor | None = None
        denoiser.blocks[config.block].register_forward_hook(self._watch)

    def _watch(self, module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        self.seen = output

    def loss(self, frames: torch.Tensor) -> torch.Tensor:
        """Weighted cross-entropy for the tokens of the last forward pass, which was shown ``frames``, int64 [k]."""
        assert self.seen is not None
        b, k = len(self.seen), len(frames)
        logits = self(self.seen).float().view(b, k, -1, self.out_features)
        wanted = frames.view(1, k, 1).expand(logits.shape[:3])
        return self.weight_of_loss * F.cross_entropy(logits.flatten(0, 2), wanted.flatten())


def draw_frame_count(phases: tuple[FramePhase, ...], progress: float, generator: torch.Generator) -> int:
    """Draw how many frames the step at ``progress``, a fraction of the training, sees."""
    phase = next((phase for phase in phases if progress < phase.until_frac), phases[-1])
    shares = torch.tensor([share for _, share in phase.frames])
    return phase.frames[int(torch.multinomial(shares, 1, generator=generator))][0]


def choose_frames(k: int, num_frames: int, generator: torch.Generator) -> torch.Tensor:
    """Draw ``k`` frame numbers, one from each ``k``-th of the video, ascending, int64 [k]."""
    return ((torch.arange(k) + torch.rand(k, generator=generator)) * num_frames / k).long()
