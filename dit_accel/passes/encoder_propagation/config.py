"""What a plan says of encoder propagation: which steps are key steps, how many decoders run at once, what is added."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from dit_accel.errors import ConfigError
from dit_accel.plan.config import PassConfig
from dit_accel.schedules.unet_generators import published_key_steps, scaled_steps

NAME = "encoder_propagation"
PUBLISHED_BLOCKS_FRAC = 18 / 28  # of a DiT-XL/2, the part that the paper takes for its encoder
USUAL_PARALLEL = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderPropagationConfig(PassConfig):
    """Run the encoder at key steps only, and the decoders of the steps between from what it gave.

    Args:
        key_steps: Evaluations, counted from 0, at which the encoder runs; 0 is one of them. ``None``: the paper's.
        num_steps: Evaluations of the runs that ``key_steps`` are for; in a run of another number those at the same
            fractions are taken, with a warning. ``None``: taken as they are in every run.
        every: In place of ``key_steps``: one evaluation in so many.
        first_blocks: How many blocks of a transformer are its encoder. ``None``: of a UNet the encoder that it has, of
            a transformer the paper's 18 of 28.
        max_parallel: How many steps run in one batch of decoders at most; 1: one after the other, which needs next to
            no memory. A batch of p steps takes the memory of p plain calls for its decoder and the skips into it. The
            paper's code has no such bound. ``None``: 8 where the model can, else 1.
        prior_noise: How much of the initial noise is added to the latents before each late step of the scheduler;
            the paper's is 0.003, and 0 adds none.
        prior_noise_from: Part of the run after which it is added.

    Raises:
        ConfigError: A value is out of range, or two of them contradict each other.
    """

    type_name: ClassVar[str] = NAME

    key_steps: tuple[int, ...] | None = None
    num_steps: int | None = None
    every: int | None = None
    first_blocks: int | None = None
    max_parallel: int | None = None
    prior_noise: float = 0.0
    prior_noise_from: float = 0.5

    def __post_init__(self) -> None:
        for name in ("num_steps", "every", "first_blocks", "max_parallel"):
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"'{NAME}': {name} must be a whole number of at least 1, got {value!r}")
        for name, most in (("prior_noise", 1.0), ("prior_noise_from", 1.0)):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= most:
                raise ConfigError(f"'{NAME}': {name} must be a number from 0 to {most:g}, got {value!r}")
        if self.key_steps is None:
            if self.num_steps is not None:
                raise ConfigError(f"'{NAME}': num_steps says what 'key_steps' are for, which are not given")
            return
        if self.every is not None:
            raise ConfigError(f"'{NAME}': give 'key_steps' or 'every', not both")
        object.__setattr__(self, "key_steps", self._checked(tuple(self.key_steps)))

    def _checked(self, key_steps: tuple[Any, ...]) -> tuple[int, ...]:
        if not all(isinstance(step, int) and not isinstance(step, bool) and step >= 0 for step in key_steps):
            raise ConfigError(f"'{NAME}': key_steps must be whole numbers from 0 on, got {list(key_steps)}")
        if list(key_steps) != sorted(set(key_steps)) or 0 not in key_steps:
            raise ConfigError(f"'{NAME}': key_steps must ascend and begin with 0, got {list(key_steps)}")
        if self.num_steps is not None and key_steps[-1] >= self.num_steps:
            raise ConfigError(
                f"'{NAME}': key step {key_steps[-1]} is outside a run of {self.num_steps} evaluations (0 to "
                f"{self.num_steps - 1})"
            )
        return key_steps

    def keys_for(self, num_steps: int) -> tuple[int, ...]:
        """The key steps of a run of ``num_steps`` evaluations, ascending, 0 among them."""
        if self.every is not None:
            return tuple(range(0, num_steps, self.every))
        if self.key_steps is None:
            return published_key_steps(num_steps)
        if self.num_steps is None:
            return tuple(step for step in self.key_steps if step < num_steps)
        return scaled_steps(self.key_steps, self.num_steps, num_steps)

    def to_dict(self) -> dict[str, Any]:
        data = PassConfig.to_dict(self)
        return {**data, "key_steps": None if self.key_steps is None else list(self.key_steps)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> "EncoderPropagationConfig":
        cls.check_keys(data)
        fields = dict(data)
        key_steps = fields.pop("key_steps", None)
        if key_steps is not None and not isinstance(key_steps, list):
            raise ConfigError(f"'{NAME}': key_steps must be a list of whole numbers, got {key_steps!r}")
        return cls(key_steps=None if key_steps is None else tuple(key_steps), **fields)
