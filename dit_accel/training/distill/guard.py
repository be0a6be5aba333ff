"""When a training is rolled back to its last good checkpoint, and when it is given up."""

from dataclasses import dataclass

from dit_accel.errors import ConfigError, DitAccelError


class DivergedError(DitAccelError, RuntimeError):
    """Training left the road and could not be brought back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardConfig:
    """When a run is rolled back to its last good checkpoint, and how often.

    Attributes:
        rollbacks: Allowed in a row without a good checkpoint in between; then the run ends with an error.
        lr_factor: Learning rates shrink by it at each rollback.
        probe_steps: Steps between looks at the diversity of samples; 0 never looks.
        min_diversity_frac: Least share of the teacher's diversity; of the student's at the start where that is less:
            one step of a model that needs many is blurred.
        max_diversity_frac: Most, likewise: samples with far too much contrast lie far apart.
    """

    rollbacks: int = 3
    lr_factor: float = 0.5
    probe_steps: int = 0
    min_diversity_frac: float = 0.25
    max_diversity_frac: float = 1.5

    def __post_init__(self) -> None:
        if self.rollbacks < 0 or not 0 < self.lr_factor <= 1 or not 0 <= self.min_diversity_frac < 1:
            raise ConfigError(
                f"rollbacks must be 0 or more, lr_factor in (0, 1], min_diversity_frac in [0, 1): {self}"
            )
        if self.max_diversity_frac <= 1:
            raise ConfigError(f"max_diversity_frac must be more than 1, got {self.max_diversity_frac}")

    def trouble(self, share: float, first: float) -> str | None:
        """What is wrong with samples whose diversity is this share of the teacher's; ``first``: at the start."""
        seen = f"{share:.2f} of the teacher's, {first:.2f} at the start"
        if share < self.min_diversity_frac * min(1.0, first):
            return f"samples lost their diversity: {seen}"
        if share > self.max_diversity_frac * max(1.0, first):
            return f"samples are over-contrasted: their diversity is {seen}"
        return None
