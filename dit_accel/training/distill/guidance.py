"""One convention for the strength of classifier-free guidance, and the other one converted at the edge.

Diffusers' pipelines mean ``uncond + scale (cond - uncond)``; DMD2, LCM and MDT-dist write ``cond + weight (cond -
uncond)``. The same number in the wrong one is off by a whole unit of guidance, so it is stored once, as diffusers'
scale.
"""

from dataclasses import dataclass

import torch

from dit_accel.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Guidance:
    """A strength of guidance.

    Attributes:
        scale: As diffusers means it: 1 is none, 0 is the unconditional model.

    Raises:
        ConfigError: It is negative.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.scale < 0:
            raise ConfigError(f"guidance scale must be 0 or more (1 is none), got {self.scale}")

    @classmethod
    def from_weight(cls, weight: float) -> "Guidance":
        """From the weight w of ``cond + w (cond - uncond)``, as DMD2, LCM and MDT-dist quote it: w = scale - 1."""
        return cls(weight + 1.0)

    @property
    def weight(self) -> float:
        """In the papers' other convention."""
        return self.scale - 1.0

    @property
    def is_none(self) -> bool:
        """Whether one call without the unconditional half is enough."""
        return self.scale == 1.0

    def mix(self, cond: torch.Tensor, uncond: torch.Tensor) -> torch.Tensor:
        """Combine two predictions of one shape."""
        return torch.lerp(uncond, cond, self.scale)
