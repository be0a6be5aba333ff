"""Fits what a reused output lacks: CacheQuant's affine map, one scale and one shift for each step and channel.

Least squares of the true output on the kept one, over the tokens of all prompts and guidance branches (Liu and Zhang,
arXiv 2503.01323, section 3.2): scale = cov / var, shift = mean of the true - scale * mean of the kept. The outputs are
those of a run in which everything is computed, as in the paper, so that drift from one step to the next is not seen.
"""

from collections.abc import Callable
from typing import Any

import torch

from dit_accel.calibration.curves import watched
from dit_accel.errors import ConfigError
from dit_accel.passes.static_cache import SEVERAL_OUTPUTS
from dit_accel.runtime.call import Call
from dit_accel.schedules import Schedule

LEAVES = ("self_attn", "cross_attn", "single_attn", "ff", "ff_context", "proj_mlp", "proj_out")
STAGES = ("conv_in", "resnet", "transformer", "mid_block", "up_block")
SINGLE_OUTPUTS = frozenset((*LEAVES, *STAGES)).difference(SEVERAL_OUTPUTS)


def fit_corrections(
    pipe: Any, run: Callable[[], object], schedule: Schedule, *, scheduler: Any = None
) -> dict[str, torch.Tensor]:
    """The ``corrections`` of a :class:`StaticCacheConfig` with this schedule.

    Sites that keep what they add to a residual stream, and those that return several tensors, are left uncorrected.

    Args:
        pipe: A pipeline, or a bare denoiser. What is applied to it is taken off meanwhile.
        run: Draws with it, as often as there are prompts to fit to, in as many steps as the schedule has.
        schedule: Which outputs are reused; the kept one is that of the last recomputed step.
        scheduler: The scheduler of a bare denoiser.

    Raises:
        ConfigError: A run has another number of steps.
    """
    moments = _Moments(schedule)
    with watched(pipe, moments.see, sites=tuple(schedule.recompute), scheduler=scheduler) as kinds:
        run()
    corrections: dict[str, torch.Tensor] = {}
    for site in schedule.recompute:
        if kinds.get(site) in SINGLE_OUTPUTS and site in moments.sums:
            corrections[f"{site}.scale"], corrections[f"{site}.shift"] = moments.maps(site)
    return corrections


class _Moments:
    """Sums over tokens, by site: [T, 5, C] of count, x, y, x * x and x * y.

    x is the kept output and y the true one, both less the mean of the first x, so that the variance does not drown.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.sums: dict[str, torch.Tensor] = {}
        self._centre: dict[tuple[str, int], torch.Tensor] = {}
        self._kept: dict[tuple[str, Any], torch.Tensor] = {}
        self._run = -1

    def see(self, site: str, call: Call, output: list[torch.Tensor]) -> None:
        if call.run.num_steps != self.schedule.num_steps:
            raise ConfigError(
                f"the schedule has {self.schedule.num_steps} steps and the run {call.run.num_steps}; they must agree"
            )
        if call.run.number != self._run:
            self._run, self._kept = call.run.number, {}
        if len(output) != 1 or output[0].dim() not in (3, 4):
            return
        channels = 1 if output[0].dim() == 4 else -1
        own = output[0].movedim(channels, -1).flatten(0, -2).double()
        key = (site, call.branch)
        if self.schedule.recomputes(call.step, site) or key not in self._kept:
            self._kept[key] = own
            return
        kept = self._kept[key]
        if kept.shape != own.shape:
            return
        centre = self._centre.setdefault((site, call.step), kept.mean(dim=0))
        x, y = kept - centre, own - centre
        sums = self.sums.setdefault(site, torch.zeros(self.schedule.num_steps, 5, own.shape[-1], dtype=torch.float64))
        parts = (torch.ones_like(x), x, y, x * x, x * y)
        sums[call.step] += torch.stack([part.sum(dim=0) for part in parts]).cpu()

    def maps(self, site: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and shift, fp32 [T, C]; 1 and 0 at steps that compute, and scale 1 where the kept is constant."""
        sums = self.sums[site]
        scales, shifts = torch.ones_like(sums[:, 0]), torch.zeros_like(sums[:, 0])
        for step, (count, x, y, xx, xy) in enumerate(sums):
            if not count.any():
                continue
            x, y, xx, xy = x / count, y / count, xx / count, xy / count
            variance = xx - x * x
            varies = variance > 1e-12 * xx.clamp(min=1e-30)
            scale = torch.where(varies, (xy - x * y) / variance.clamp(min=1e-30), torch.ones_like(x))
            centre = self._centre[site, step].cpu()
            scales[step], shifts[step] = scale, (y + centre) - scale * (x + centre)
        return scales.float(), shifts.float()
