"""What a trajectory plan says: which evaluations are computed, and by which weights the others are answered."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
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
        guidance: Rising guidance scales at which the weights were fitted; empty: they are used at any scale.
        guided_weights: float64 [G, T, T + 2]: the weights at each of these scales; see :meth:`weights_at`.
            ``weights`` answer where the scale of a run cannot be told.
        unconditional: float64 [T, T + 2]: weights of the unconditional guidance branch, where it has its own;
            ``weights`` are then those of the conditional one. ``None``: both branches have the same.
        guided_unconditional: float64 [G, T, T + 2]: ``unconditional`` at each of the scales of ``guidance``.
        conditional: For each evaluation whether the conditional guidance branch alone is computed, where ``computed``
            is false; empty: nowhere. Takes ``unconditional`` and ``cross``.
        cross: float64 [T, 2 T + 2]: row i answers the unconditional branch there, by outputs of its own (columns 0 to
            T - 1), of the conditional branch (T to 2 T - 1, evaluation i itself among them), latents and noise.
        filters: float64 [T, C, C]: what is added to each answer of the last computed output with its C channels mixed
            (the latents' channels, the last axis of packed ones); noughts where nothing is. ``None``: nowhere.
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
    guidance: tuple[float, ...] = ()
    guided_weights: torch.Tensor | None = None
    unconditional: torch.Tensor | None = None
    guided_unconditional: torch.Tensor | None = None
    conditional: tuple[bool, ...] = ()
    cross: torch.Tensor | None = None
    filters: torch.Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("levels", "guard", "guidance"):
            object.__setattr__(self, name, tuple(float(x) for x in getattr(self, name)))
        if not isinstance(self.speedup, int | float) or not self.speedup >= 1:
            raise ConfigError(f"'{NAME}': speedup must be a number of at least 1, got {self.speedup!r}")
        if not isinstance(self.guarded, bool):
            raise ConfigError(f"'{NAME}': guarded must be true or false, got {self.guarded!r}")
        if self.guarded and not self.guard:
            raise ConfigError(f"'{NAME}': 'guarded' needs limits in 'guard'; dit-accel calibrate measures them")
        if self.computed is None:
            if self.levels or self.guard or self.guidance or self.tensors():
                raise ConfigError(f"'{NAME}': weights, levels and guard belong to 'computed', which is not given")
            return
        object.__setattr__(self, "computed", tuple(self.computed))
        object.__setattr__(self, "conditional", tuple(bool(each) for each in self.conditional))
        self._check(self.computed)

    def _check(self, computed: tuple[Any, ...]) -> None:
        steps = len(computed)
        if not steps or not all(isinstance(each, bool) for each in computed) or not computed[0]:
            raise ConfigError(f"'{NAME}': computed must hold true or false for each evaluation, the first one true")
        for name in ("levels", "guard", "conditional"):
            given = getattr(self, name)
            if given and len(given) != steps:
                raise ConfigError(f"'{NAME}': {len(given)} {name} for {steps} evaluations")
        if self.weights is not None:
            _check_table(self.weights, self._has_conditional(computed), (steps, steps + 2))
        if self.unconditional is not None:
            if self.weights is None:
                raise ConfigError(f"'{NAME}': unconditional weights take those of the conditional branch beside them")
            _check_table(self.unconditional, computed, (steps, steps + 2))
        self._check_conditional(computed)
        self._check_guidance(computed)
        self._check_filters(steps)
        if self.guard and self.weights is None:
            raise ConfigError(f"'{NAME}': the guard compares with forecasts by fitted weights, and there are none")

    def _has_conditional(self, computed: tuple[bool, ...]) -> tuple[bool, ...]:
        """Where there are outputs of the conditional branch."""
        return tuple(a or b for a, b in zip(computed, self.conditional, strict=True)) if self.conditional else computed

    def _check_conditional(self, computed: tuple[bool, ...]) -> None:
        if not self.conditional and self.cross is None:
            return
        if self.unconditional is None or self.cross is None or self.guidance or not any(self.conditional):
            raise ConfigError(
                f"'{NAME}': conditional evaluations take 'unconditional' and 'cross' weights of one guidance scale"
            )
        if any(a and b for a, b in zip(computed, self.conditional, strict=True)):
            raise ConfigError(f"'{NAME}': an evaluation is computed whole or its conditional branch alone, not both")
        steps = len(computed)
        if tuple(self.cross.shape) != (steps, 2 * steps + 2) or not torch.isfinite(self.cross).all():
            found = list(self.cross.shape)
            raise ConfigError(f"'{NAME}': cross must be finite numbers [{steps}, {2 * steps + 2}], got {found}")
        ends = self.cross[:, LATENTS:]
        _check_table(torch.cat([self.cross[:, :steps], ends], 1), computed, (steps, steps + 2))
        # Of the conditional branch there is this evaluation's own output, too: as if it were one evaluation later.
        later = torch.zeros(steps + 1, steps + 3, dtype=self.cross.dtype)
        later[1:, :steps] = self.cross[:, steps : 2 * steps]
        _check_table(later, (*self._has_conditional(computed), False), (steps + 1, steps + 3))

    def _check_guidance(self, computed: tuple[bool, ...]) -> None:
        if not self.guidance and self.guided_weights is None:
            return
        if self.weights is None or self.guided_weights is None or len(self.guidance) < 2:
            raise ConfigError(f"'{NAME}': weights by guidance scale take 'weights' and two scales or more")
        if any(low >= high for low, high in pairwise(self.guidance)):
            raise ConfigError(f"'{NAME}': the guidance scales must rise, got {list(self.guidance)}")
        if (self.unconditional is None) != (self.guided_unconditional is None):
            raise ConfigError(f"'{NAME}': weights by guidance scale are for both branches or for none apart")
        for table in (self.guided_weights, self.guided_unconditional):
            if table is not None:
                _check_table(table, computed, (len(self.guidance), len(computed), len(computed) + 2))

    def _check_filters(self, steps: int) -> None:
        if self.filters is None:
            return
        if self.weights is None or self.guidance:
            raise ConfigError(f"'{NAME}': filters take weights of one guidance scale")
        shape = tuple(self.filters.shape)
        if len(shape) != 3 or shape[0] != steps or shape[1] != shape[2] or not torch.isfinite(self.filters).all():
            raise ConfigError(f"'{NAME}': filters must be finite numbers [{steps}, C, C], got {list(shape)}")

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
        cost = len(chosen) + sum(self.conditional) / 2
        count = max(1, round(cost * num_steps / len(self.computed)))
        places = np.interp(np.linspace(0, len(chosen) - 1, count), range(len(chosen)), chosen)
        scale = (num_steps - 1) / max(1, len(self.computed) - 1)
        return tuple(sorted({round(float(place) * scale) for place in places}))

    def weights_at(self, scale: float | None) -> torch.Tensor | None:
        """The weights at a guidance scale: on the line through those of the two nearest that were fitted.

        Beyond them the line goes on, as far at most as the two are apart. Three fits half a scale apart, piecewise
        linear or by a parabola, differed by 0.1 dB; beyond, the line was 0.1 to 1.1 dB better than the nearest fit
        (``docs/trajectories.md``).

        Args:
            scale: Of the run; ``None``: it cannot be told.
        """
        return self.weights if self.guided_weights is None else self._carried(self.guided_weights, self.weights, scale)

    def unconditional_at(self, scale: float | None) -> torch.Tensor | None:
        """:meth:`weights_at`, of the unconditional branch; ``None``: it has the same as the other one."""
        if self.guided_unconditional is None:
            return self.unconditional
        return self._carried(self.guided_unconditional, self.unconditional, scale)

    def _carried(self, tables: torch.Tensor, own: torch.Tensor | None, scale: float | None) -> torch.Tensor | None:
        if scale is None:
            return own
        first = min(max(bisect_left(self.guidance, scale) - 1, 0), len(self.guidance) - 2)
        low, high = self.guidance[first : first + 2]
        share = min(max((scale - low) / (high - low), -1.0), 2.0)
        return torch.lerp(tables[first], tables[first + 1], share)

    def is_for_guidance(self, scale: float | None) -> bool:
        """Whether a guidance scale is within those that the weights were fitted to, or nothing is known of either."""
        return scale is None or not self.guidance or self.guidance[0] <= scale <= self.guidance[-1]

    def at_guidance(self, scale: float) -> "TrajectoryConfig":
        """The same plan for one guidance scale alone, as :func:`~dit_accel.to_scheduler` takes it."""
        weights, unconditional = self.weights_at(scale), self.unconditional_at(scale)
        return replace(
            self,
            weights=weights,
            unconditional=unconditional,
            guidance=(),
            guided_weights=None,
            guided_unconditional=None,
        )

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
        if self.guarded:  # what is not used is not named: older plans keep their digest
            data["guarded"] = True
        if self.guidance:
            data["guidance"] = list(self.guidance)
        if self.conditional:
            data["conditional"] = "".join("01"[each] for each in self.conditional)
        return data

    def tensors(self) -> dict[str, torch.Tensor]:
        names = ("weights", "guided_weights", "unconditional", "guided_unconditional", "cross", "filters")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> "TrajectoryConfig":
        cls.check_keys(data)
        fields: dict[str, Any] = {**data, **tensors}
        for name in ("computed", "conditional"):
            text = fields.get(name)
            if text is None:
                continue
            if not isinstance(text, str) or set(text) - set("01"):
                raise ConfigError(f"'{NAME}': {name} must be a text of 0 and 1, got {text!r}")
            fields[name] = tuple(each == "1" for each in text)
        return cls(**fields)


def rows_of(table: torch.Tensor) -> dict[int, dict[int, float]]:
    """The weights of each evaluation that has any: by earlier evaluation, :data:`LATENTS` and :data:`NOISE`."""
    rows = {}
    for step, row in enumerate(table.tolist()):
        weights = {place: weight for place, weight in enumerate(row[:LATENTS]) if weight}
        weights |= {key: row[key] for key in (LATENTS, NOISE) if row[key]}
        if weights:
            rows[step] = weights
    return rows


def _check_table(table: Any, computed: tuple[bool, ...], shape: tuple[int, ...]) -> None:
    """Refuse weights of another shape, that are not finite, or that are for outputs which there are not."""
    if not isinstance(table, torch.Tensor) or tuple(table.shape) != shape:
        found = list(table.shape) if isinstance(table, torch.Tensor) else table
        raise ConfigError(f"'{NAME}': the weights must be a tensor {list(shape)}, got {found}")
    if not torch.isfinite(table).all():
        raise ConfigError(f"'{NAME}': the weights hold values that are not finite (NaN or infinity)")
    of_outputs = table[..., :LATENTS]
    early = of_outputs.tril(-1)[..., list(computed)]
    if not torch.equal(of_outputs[..., list(computed)], early) or of_outputs[..., [not c for c in computed]].any():
        raise ConfigError(f"'{NAME}': a weight is for an output that is not computed, or not yet")
