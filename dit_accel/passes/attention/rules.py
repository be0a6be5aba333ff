"""When attention stays dense: the first steps, the first layers, short sequences. Shared by all sparse passes."""

import math
from dataclasses import dataclass

from dit_accel.errors import ConfigError
from dit_accel.kernels.low_bit import PRECISIONS
from dit_accel.plan.config import PassConfig


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DenseRules(PassConfig):
    """Settings that every sparse pass has.

    Args:
        dense_steps_frac: Share of a run's steps, from the first on, in which everything is computed. Early steps
            decide the composition, and all published recipes keep some of them dense.
        dense_layers: Attention modules, from the first on, in which everything is computed.
        min_tokens: Sequences shorter than this stay dense: below some length a sparse kernel saves nothing.

    Raises:
        ConfigError: A value out of range.
    """

    dense_steps_frac: float = 0.0
    dense_layers: int = 0
    min_tokens: int = 0

    def check_rules(self) -> None:
        """Make sure that the rules make sense.

        Raises:
            ConfigError: They do not.
        """
        if not isinstance(self.dense_steps_frac, int | float) or not 0 <= self.dense_steps_frac <= 1:
            raise ConfigError(
                f"'{self.type_name}': dense_steps_frac must be a number in [0, 1], got {self.dense_steps_frac!r}"
            )
        for name in ("dense_layers", "min_tokens"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise ConfigError(f"'{self.type_name}': {name} must be a whole number of at least 0, got {value!r}")

    def dense_steps(self, num_steps: int) -> int:
        """How many steps of a run are dense."""
        return math.ceil(self.dense_steps_frac * num_steps)


def check_precision(name: str, precision: str) -> None:
    """The precision of a pass is one that there is.

    Raises:
        ConfigError: It is not.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"'{name}': precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
