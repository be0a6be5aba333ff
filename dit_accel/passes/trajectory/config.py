"""What a trajectory plan says: which evaluations are computed, and by which weights the others are answered."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from dit_accel.errors import ConfigError
from dit_accel.plan.config import PassConfig
from dit_accel.schedules.theory import typical_steps

NAME = "trajectory"
LATENTS, NOISE = -2, -1  # the last two columns of the weights


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrajectoryConfig(PassConfig):
    """Compute some denoiser evaluations of a run and answer the others from them.

    With ``weights`` (found by :mod:`dit_accel.calibration`) the answers are fitted to this model, scheduler and number
    of steps. Without, they are by theory: nothing is known of what they cost in quality.

    Args:
        computed: For each of T denoiser evaluations whether it is computed; the first one is. ``None``: chosen by
            theory from ``speedup``, for any number of steps.
        weights: float64 [T, T + 2]: row i answers evaluation i by the sum of earlier outputs (columns 0 to T - 1), the
            latents of that evaluation (column -2) and those of the first one (column -1), both as the denoiser is
            given them. Rows of computed evaluations forecast them too, for the guard.
        speedup: Evaluations of a run divided by those that are computed, where ``computed`` is not given.
        levels: The T noise levels of the runs that the weights were fitted to.
        guard: For each evaluation the largest relative error that the forecast of it may have, 0 where there is no
            forecast: a little more than any prompt of the calibration had. Empty: not calibrated.
        guarded: Keep watch by ``guard``. Where a computed output is further from its forecast than that, no two
            evaluations in a row are answered from there on, and ``summary`` says so. Costs one wait for the device at
            each computed evaluation, which is why it is off by default.

    Raises:
        ConfigError: The parts do not fit each other.
    """

    type_name: ClassVar[str] = NAME

    computed: tuple[bool, ...] | None = None
    weights: torch.Tensor | None = None
    speedup: float = 2.0
    levels: tuple[float, ...] = ()
    guard: tuple[float, ...] = ()
    guarded: bool = False

    def __post_init__(self) -> None:
        for name in ("levels", "guard"):
            object.__setattr__(self, name, tuple(float(x) for x in getattr(self, name)))
        if not isinstance(self.speedup, int | float) or not self.speedup >= 1:
            raise ConfigError(f"'{NAME}': speedup must be a number of at least 1, got {self.speedup!r}")
        if not isinstance(self.guarded, bool):
            raise ConfigError(f"'{NAME}': guarded must be true or false, got {self.guarded!r}")
        if self.guarded and not self.guard:
            raise ConfigError(f"'{NAME}': 'guarded' needs limits in 'guard'; dit-accel calibrate measures them")
        if self.computed is None:
            if self.weights is not None or self.levels or self.guard:
                raise ConfigError(f"'{NAME}': weights, levels and guard belong to 'computed', which is not given")
            return
        object.__setattr__(self, "computed", tuple(self.computed))
        self._check(self.computed)

    def _check(self, computed: tuple[Any, ...]) -> None:
        steps = len(computed)
        if not steps or not all(isinstance(each, bool) for each in computed) or not computed[0]:
            raise ConfigError(f"'{NAME}': computed must hold true or false for each evaluation, the first one true")
        if self.weights is not None:
            if not isinstance(self.weights, torch.Tensor) or tuple(self.weights.shape) != (steps, steps + 2):
                found = list(self.weights.shape) if isinstance(self.weights, torch.Tensor) else self.weights
                raise ConfigError(f"'{NAME}': the weights must be a tensor [{steps}, {steps + 2}], got {found}")
            if not torch.isfinite(self.weights).all():
                raise ConfigError(f"'{NAME}': the weights hold values that are not finite (NaN or infinity)")
            of_outputs = self.weights[:, :LATENTS]
            early = of_outputs.tril(-1)[:, list(computed)]
            if not torch.equal(of_outputs[:, list(computed)], early) or of_outputs[:, [not c for c in computed]].any():
                raise ConfigError(f"'{NAME}': a weight is for an output that is not computed, or not yet")
        for name in ("levels", "guard"):
            given = getattr(self, name)
            if given and len(given) != steps:
                raise ConfigError(f"'{NAME}': {len(given)} {name} for {steps} evaluations")
        if self.guard and self.weights is None:
            raise ConfigError(f"'{NAME}': the guard compares with forecasts by fitted weights, and there are none")

    @property
    def num_steps(self) -> int | None:
        """T; ``None``: any."""
        return None if self.computed is None else len(self.computed)

    def steps_of(self, num_steps: int) -> tuple[int, ...]:
        """Which evaluations of a run of ``num_steps`` are computed; of another T, as large a share, spread alike."""
        if self.computed is None:
            return typical_steps(num_steps, max(1, round(num_steps / self.speedup)))
        chosen = [step for step, computed in enumerate(self.computed) if computed]
        if num_steps == len(self.computed):
            return tuple(chosen)
        count = max(1, round(len(chosen) * num_steps / len(self.computed)))
        places = np.interp(np.linspace(0, len(chosen) - 1, count), range(len(chosen)), chosen)
        scale = (num_steps - 1) / max(1, len(self.computed) - 1)
        return tuple(sorted({round(float(place) * scale) for place in places}))

    def to_dict(self) -> dict[str, Any]:
        computed = None if self.computed is None else "".join("01"[each] for each in self.computed)
        data = {
            "type": self.type_name,
            "version": self.version,
            "computed": computed,
            "speedup": self.speedup,
            "levels": list(self.levels),
            "guard": list(self.guard),
        }
        return {**data, "guarded": True} if self.guarded else data  # older plans keep their digest

    def tensors(self) -> dict[str, torch.Tensor]:
        return {} if self.weights is None else {"weights": self.weights}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> "TrajectoryConfig":
        cls.check_keys(data)
        fields = dict(data)
        computed = fields.pop("computed", None)
        if computed is not None:
            if not isinstance(computed, str) or set(computed) - set("01"):
                raise ConfigError(f"'{NAME}': computed must be a text of 0 and 1, got {computed!r}")
            computed = tuple(each == "1" for each in computed)
        return cls(computed=computed, weights=tensors.get("weights"), **fields)
