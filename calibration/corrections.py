"""Fits what a reused output lacks: one scale for each kept value and one shift, by step and channel.

Least squares of the true output on the kept ones, over the tokens of all prompts and guidance branches. From one
kept value that is CacheQuant's affine map (Liu and Zhang, arXiv 2503.01323, section 3.2): scale = cov / var, shift =
mean of the true - scale * mean of the kept. From two or three it is a forecast, of which TaylorSeer's finite
differences (arXiv 2503.06923) are one choice of weights. The outputs are those of a run in which everything is
computed, as in both papers, so that drift from one step to the next is not seen.

What is recorded are second moments between steps, from which the maps of any schedule are solved without another run.
Memory, bytes: 8 x T x (horizon + 2) x channels of all sites, and the last ``horizon`` outputs of each.
"""

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from dit_accel.calibration.curves import watched
from dit_accel.errors import ConfigError
from dit_accel.passes.corrections import MAX_DEPTH, SEVERAL_OUTPUTS
from dit_accel.runtime.call import Call
from dit_accel.schedules import Schedule
from dit_accel.schedules.kept import kept_steps

LEAVES = ("self_attn", "cross_attn", "single_attn", "ff", "ff_context", "proj_mlp", "proj_out")
STAGES = ("conv_in", "resnet", "transformer", "mid_block", "up_block")
SINGLE_OUTPUTS = frozenset((*LEAVES, *STAGES)).difference(SEVERAL_OUTPUTS)
RIDGE_FRAC = 1e-7  # of the regressors' variance, toward the last value as it is
CONSTANT_FRAC = 1e-12  # a channel that varies by less, of its mean square, has no scale


def fit_corrections(
    pipe: Any,
    run: Callable[[], object],
    schedule: Schedule,
    *,
    depth: int = 1,
    absent: Collection[int] = (),
    scheduler: Any = None,
) -> dict[str, torch.Tensor]:
    """The ``corrections`` of a :class:`StaticCacheConfig` with this schedule.

    Sites that keep what they add to a residual stream, and those that return several tensors, are left uncorrected.

    Args:
        pipe: A pipeline, or a bare denoiser. What is applied to it is taken off meanwhile.
        run: Draws with it, as often as there are prompts to fit to, in as many steps as the schedule has.
        schedule: Which outputs are reused.
        depth: From how many kept values, 1 to 3.
        absent: Evaluations that a trajectory in the same plan answers.
        scheduler: The scheduler of a bare denoiser.

    Raises:
        ConfigError: A run has another number of steps.
    """
    lags = 1
    for row in schedule.recompute.values():
        for step, kept in enumerate(kept_steps(row, depth, absent)):
            lags = max(lags, step - min(kept)) if kept else lags
    moments = record_moments(
        pipe, run, tuple(schedule.recompute), num_steps=schedule.num_steps, horizon=lags, scheduler=scheduler
    )
    return moments.corrections(schedule, depth=depth, absent=absent)


def record_moments(
    pipe: Any,
    run: Callable[[], object],
    sites: Sequence[str],
    *,
    num_steps: int,
    horizon: int | None = None,
    scheduler: Any = None,
) -> "Moments":
    """Watch a pipeline draw in full, and sum up what its sites' outputs have in common from step to step.

    Args:
        pipe: A pipeline, or a bare denoiser. What is applied to it is taken off meanwhile.
        run: Draws with it, any number of times.
        sites: Ids of those that are recorded; those that return several tensors are left out.
        num_steps: T.
        horizon: How many steps back; ``None``: all.
        scheduler: The scheduler of a bare denoiser.

    Raises:
        ConfigError: A run has another number of steps.
    """
    moments = Moments(num_steps=num_steps, horizon=min(horizon or num_steps - 1, num_steps - 1) or 1)
    with watched(pipe, moments.see, sites=tuple(sites), scheduler=scheduler) as kinds:
        run()
    moments.let_go()
    single = [site for site in sites if kinds.get(site) in SINGLE_OUTPUTS and site in moments.sites]
    moments.sites = {site: moments.sites[site] for site in single}
    return moments


@dataclass(slots=True, kw_only=True)
class Moments:
    """Second moments of outputs between steps.

    Attributes:
        num_steps: T.
        horizon: H, steps back that products go.
        sites: By site float64 [T, H + 2, C]: sums of x_t, of x_t * x_t, and of x_t * x_(t - 1) to x_t * x_(t - H).
        counts: By site, the tokens that were summed up at each step.
    """

    num_steps: int
    horizon: int
    sites: dict[str, torch.Tensor] = field(default_factory=dict)
    counts: dict[str, list[int]] = field(default_factory=dict)
    _kept: dict[tuple[str, Any], deque[torch.Tensor]] = field(default_factory=dict)
    _run: int = -1

    def see(self, site: str, call: Call, output: list[torch.Tensor]) -> None:
        """Add an output; every step of a run is seen, for nothing is reused."""
        if call.run.num_steps != self.num_steps:
            raise ConfigError(
                f"the schedule has {self.num_steps} steps and the run {call.run.num_steps}; they must agree"
            )
        if call.run.number != self._run:
            self._run, self._kept = call.run.number, {}
        if len(output) != 1 or output[0].dim() not in (3, 4):
            return
        channels = 1 if output[0].dim() == 4 else -1
        given = output[0].movedim(channels, -1).flatten(0, -2)
        kept = self._kept.setdefault((site, call.branch), deque(maxlen=self.horizon))
        if kept and kept[0].shape != given.shape:
            kept.clear()
        own = given.double()
        products = torch.stack([(own * other).sum(0) for other in (own, *kept)])
        if site not in self.sites:
            self.sites[site] = torch.zeros(self.num_steps, self.horizon + 2, own.shape[-1], dtype=torch.float64)
            self.counts[site] = [0] * self.num_steps
        self.sites[site][call.step, 0] += own.sum(0).cpu()
        self.sites[site][call.step, 1 : 1 + len(products)] += products.cpu()
        self.counts[site][call.step] += len(own)
        kept.appendleft(given.clone())

    def let_go(self) -> None:
        """Forget the outputs that were kept to be multiplied with later ones."""
        self._kept = {}

    def corrections(
        self,
        schedule: Schedule,
        *,
        depth: int = 1,
        absent: Collection[int] = (),
        strength: float = 1.0,
        ridge: float = RIDGE_FRAC,
    ) -> dict[str, torch.Tensor]:
        """The maps of a schedule.

        Args:
            schedule: Which outputs are reused; of the sites that were recorded.
            depth: From how many kept values, 1 to 3.
            absent: Evaluations that a trajectory in the same plan answers.
            strength: 1 is the least squares fit, 0 the last value as it is; between them the answer lies between.
            ridge: Pull toward the last value as it is, relative to the variance of what is kept.

        Raises:
            ConfigError: Another depth, or other steps.
        """
        if depth not in range(1, MAX_DEPTH + 1):
            raise ConfigError(f"corrections are from 1 to {MAX_DEPTH} kept values, not {depth!r}")
        if schedule.num_steps != self.num_steps:
            raise ConfigError(f"{self.num_steps} steps were recorded, and the schedule has {schedule.num_steps}")
        found: dict[str, torch.Tensor] = {}
        for site, row in schedule.recompute.items():
            if site in self.sites:
                scale, shift, nodes = self._maps(site, kept_steps(row, depth, absent), depth, ridge)
                as_it_is = torch.zeros_like(scale)
                as_it_is[:, 0] = 1.0
                scale = (as_it_is + strength * (scale - as_it_is)).float()
                found[f"{site}.scale"] = scale[:, 0] if depth == 1 else scale
                found[f"{site}.shift"] = (strength * shift).float()
                if depth > 1:
                    found[f"{site}.nodes"] = nodes
        return found

    def _maps(
        self, site: str, kept: Sequence[tuple[int, ...] | None], depth: int, ridge: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Scale [T, K, C], shift [T, C] and nodes [T, K]; the identity at steps that compute."""
        channels, counts = self.sites[site].shape[-1], self.counts[site]
        scale = torch.zeros(self.num_steps, depth, channels, dtype=torch.float64)
        scale[:, 0] = 1.0
        shift = torch.zeros(self.num_steps, channels, dtype=torch.float64)
        nodes = torch.full((self.num_steps, depth), -1)
        for step, steps in enumerate(kept):
            if steps is None:
                continue
            known = [node for node in steps if step - node <= self.horizon]
            # A branch that is missing at some step (guidance off half-way) leaves its moments incomparable.
            if not known or not counts[step] or any(counts[node] != counts[step] for node in known):
                continue
            weights, offset = self._solve(site, step, known, ridge)
            scale[step, : len(known)], shift[step] = weights, offset
            nodes[step, : len(steps)] = torch.tensor(steps)
        return scale, shift, nodes

    def _solve(self, site: str, step: int, nodes: Sequence[int], ridge: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Least squares of the output at ``step`` on those at ``nodes``: weights [K, C] and shift [C]."""
        moments, count = self.sites[site], self.counts[site][step]
        points = [*nodes, step]
        means = torch.stack([moments[point, 0] for point in points]) / count
        size = len(points)
        products = torch.empty(size, size, moments.shape[-1], dtype=torch.float64)
        for a in range(size):
            for b in range(size):
                late, early = max(points[a], points[b]), min(points[a], points[b])
                products[a, b] = moments[late, 1 + late - early] / count
        covariance = (products - means[:, None] * means[None]).permute(2, 0, 1)  # [C, K + 1, K + 1]
        inner, right = covariance[:, :-1, :-1], covariance[:, :-1, -1]
        squares = products.diagonal()[:, :-1]  # [C, K]
        variance = inner.diagonal(dim1=1, dim2=2)
        varies = (variance > CONSTANT_FRAC * squares.clamp_min(1e-30)).all(1)
        deviation = variance.clamp_min(1e-60).sqrt()
        prior = torch.zeros_like(right)
        prior[:, 0] = 1.0
        normal = inner / deviation[:, :, None] / deviation[:, None] + ridge * torch.eye(len(nodes), dtype=inner.dtype)
        normal = torch.where(varies[:, None, None], normal, torch.eye(len(nodes), dtype=inner.dtype))
        left = (right - (inner @ prior[..., None])[..., 0]) / deviation
        change = torch.linalg.solve(normal, left[..., None])[..., 0] / deviation
        weights = torch.where(varies[:, None], prior + change, prior).T
        return weights, means[-1] - (weights * means[:-1]).sum(0)
