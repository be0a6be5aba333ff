"""How many frames of a video a training step sees.

A video of 16 frames is 1,024 tokens, ten times the cost of an image. Most steps therefore see ``k`` of its frames
only, each with the rotary position of its true time: appearance and motion are learned on 64 or 256 tokens, and the
last part of the training sees whole videos.
"""

from dataclasses import dataclass

import torch

from dit_accel.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class FramePhase:
    """A part of the training and how many frames its steps see.

    Attributes:
        until_frac: Where the phase ends, as a fraction of all steps.
        frames: Numbers of frames a step may see, each with its probability.
        flow_shift: Time shift of the flow matching in this phase; ``None``: the kind's, as in sampling.
    """

    until_frac: float
    frames: tuple[tuple[int, float], ...]
    flow_shift: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 < self.until_frac <= 1:
            raise ConfigError(f"until_frac must lie in (0, 1], got {self.until_frac}.")
        if abs(sum(share for _, share in self.frames) - 1) > 1e-6:
            raise ConfigError(f"The probabilities of a phase must add up to 1, got {self.frames}.")

    def draw_count(self, generator: torch.Generator) -> int:
        """Draw how many frames a step sees. It decides shapes, so the host asks: the one wait of a step on a GPU."""
        shares = torch.tensor([share for _, share in self.frames], device=generator.device)
        return self.frames[int(torch.multinomial(shares, 1, generator=generator))][0]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """An auxiliary head; see ``motion_heads.py``.

    Attributes:
        block: Number of the transformer block whose tokens the head reads.
        weight: Weight of its loss.
    """

    block: int
    weight: float


def phase_at(phases: tuple[FramePhase, ...], progress: float) -> FramePhase:
    """The phase of the step at ``progress``, a fraction of the training."""
    return next((phase for phase in phases if progress < phase.until_frac), phases[-1])


def choose_frames(k: int, num_frames: int, generator: torch.Generator) -> torch.Tensor:
    """Draw ``k`` frame numbers, one from each ``k``-th of the video, ascending, int64 [k]."""
    within = torch.rand(k, generator=generator, device=generator.device)
    return ((torch.arange(k, device=generator.device) + within) * num_frames / k).long()
