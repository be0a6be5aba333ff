"""Measures what one gap does to the final output: the errors on which LeMiCa decides (arXiv 2511.00090)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from dit_accel.api import accelerated
from dit_accel.errors import ConfigError
from dit_accel.passes.static_cache import StaticCacheConfig
from dit_accel.schedules import Schedule
from dit_accel.schedules.solvers import Table


def record_gaps(
    pipe: Any,
    run: Callable[[], torch.Tensor],
    sites: Sequence[str],
    *,
    num_steps: int,
    longest: int,
    scheduler: Any = None,
) -> Table:
    """Gaps [T, T + 1]: |x - x'|_1 / |x|_1 of the final output x' when the steps between i and j reuse what i gave.

    The pipeline is run once for each gap, (longest - 1) * T times about; one prompt is nearly as good as hundreds, by
    the paper.

    Args:
        pipe: A pipeline, or a bare denoiser. What is applied to it is taken off meanwhile.
        run: Draws with it and returns what it drew, the same each time it is called: latents, best.
        sites: Ids of those that are reused.
        num_steps: T, denoiser evaluations of a run.
        longest: Gaps of up to so many steps from one computed step to the next; longer ones stay NaN.
        scheduler: The scheduler of a bare denoiser.

    Raises:
        ConfigError: ``run`` draws something else each time.
    """

    def drawn(schedule: Schedule) -> torch.Tensor:
        with accelerated(pipe, StaticCacheConfig(schedule=schedule, invariants=False), scheduler=scheduler):
            return run().detach().float()

    plain = drawn(Schedule(num_steps, {}))
    if not torch.equal(plain, drawn(Schedule(num_steps, {}))):
        raise ConfigError("'run' draws something else each time it is called; give it a seed")
    size = max(float(plain.abs().mean()), 1e-12)
    gaps = np.full((num_steps, num_steps + 1), np.nan)
    for i in range(num_steps):
        gaps[i, i + 1] = 0.0
        for j in range(i + 2, min(i + longest, num_steps) + 1):
            row = [not i < step < j for step in range(num_steps)]
            made = drawn(Schedule(num_steps, dict.fromkeys(sites, row)))
            gaps[i, j] = float((made - plain).abs().mean()) / size
    return gaps
