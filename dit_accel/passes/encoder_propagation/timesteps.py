"""The timesteps of steps that are still to come, as the pipeline would give them to the denoiser."""

import math
from typing import Any

import torch

from dit_accel.runtime.call import Run

SCALES = (1.0, 1000.0)  # flow pipelines give a thousandth of what their scheduler lists
SAME_FRAC = 5e-3  # what rounding to bfloat16 changes


class Timesteps:
    """The timesteps of one run.

    Args:
        run: The run.
        step: Evaluation of the call that tells how they are given.
        given: The timestep of that call.
        batch: Its items.

    Attributes:
        reason: Why later ones cannot be told; ``None``: they can.
    """

    def __init__(self, run: Run, step: int, given: Any, batch: int) -> None:
        self.run = run
        self.reason: str | None = None
        self._scale = 1.0
        if isinstance(given, torch.Tensor) and (given.dim() > 1 or given.numel() not in (1, batch)):
            self.reason = "items of one call have timesteps of their own"
            return
        if not isinstance(given, torch.Tensor | int | float):
            self.reason = "the denoiser is given no timestep"
            return
        # Waits for the device, once a run.
        value = float(given.flatten()[0]) if isinstance(given, torch.Tensor) else float(given)
        listed = run.timesteps[step]
        scales = [s for s in SCALES if math.isclose(value * s, listed, rel_tol=SAME_FRAC, abs_tol=1e-3)]
        if not scales:
            self.reason = f"the denoiser is given {value:g} where the scheduler lists {listed:g}"
            return
        self._scale = scales[0]

    def at(self, first: int, width: int, like: Any, batch: int, device: torch.device) -> torch.Tensor:
        """Those of ``width`` evaluations from ``first`` on, [batch * width], in the order of a fan."""
        listed: torch.Tensor = self.run.scheduler.timesteps[first : first + width].to(device)
        if self._scale != 1.0:
            listed = listed / self._scale
        return listed.to(like.dtype if isinstance(like, torch.Tensor) else listed.dtype).repeat(batch)
